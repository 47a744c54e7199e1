import CX86

// FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XRSTOR (Intel SDM vol. 1, chapters 10.5 and 13).

extension VectorEngine {
  private static let maskMXCSR: UInt32 = 0xFFFF

  /// Offset of the area, checked for alignment: #GP(0) otherwise.
  private static func area(
    _ core: Core, _ i: UnsafePointer<X86Instruction>, alignment: UInt64
  ) throws(GuestFault) -> UInt64 {
    // SAFETY (whole file): a decoded instruction and the vCPU's state with its image of 4096 bytes, for the call.
    let at = unsafe core.effectiveAddress(i)
    let linear = at &+ core.segment(unsafe i.pointee.segment).base
    if linear & (alignment - 1) != 0 { throw core.fault(ExceptionVector.generalProtection, 0) }
    return at
  }

  private static func is64(_ i: UnsafePointer<X86Instruction>) -> Bool {
    unsafe i.pointee.codeSize == 8
  }

  /// The image's first 160 bytes as a guest stores them: with REX.W 64-bit pointers, else 32 bits and selectors.
  ///
  /// Processors of one family save and restore FOP, FIP and FDP only while an exception is pending (AMD APM vol. 2, 11.4.4);
  /// the guest sees what its host does.
  private static func legacyHead(
    _ core: Core, wide: Bool, into buffer: UnsafeMutableRawPointer
  ) {
    let image = unsafe x86_xsave(core.s)
    unsafe buffer.copyMemory(from: image, byteCount: 160)
    let status = unsafe image.load(fromByteOffset: 2, as: UInt16.self)
    if !StubArena.shared.savesPointers, status & 0x80 == 0 {
      unsafe (buffer + 6).initializeMemory(as: UInt8.self, repeating: 0, count: 18)
    } else if !wide {
      let pointers = unsafe Pointers(core.s)
      unsafe buffer.storeBytes(
        of: UInt32(pointers.codeSelector), toByteOffset: 12, as: UInt32.self)
      unsafe buffer.storeBytes(
        of: UInt32(pointers.dataSelector), toByteOffset: 20, as: UInt32.self)
    }
    unsafe buffer.storeBytes(of: 0, toByteOffset: 5, as: UInt8.self)
    unsafe buffer.storeBytes(of: maskMXCSR, toByteOffset: 28, as: UInt32.self)
    for slot in 0..<8 {
      unsafe (buffer + 32 + slot * 16 + 10).initializeMemory(
        as: UInt8.self, repeating: 0, count: 6)
    }
  }

  /// Takes x87 state from `buffer` (160 bytes in FXSAVE's form).
  private static func loadX87(_ core: Core, from buffer: UnsafeRawPointer, wide: Bool) {
    let image = unsafe x86_xsave(core.s)
    let mxcsr = unsafe image.load(fromByteOffset: 24, as: UInt32.self)
    let old = unsafe Pointers(core.s)
    unsafe image.copyMemory(from: buffer, byteCount: 160)
    unsafe image.storeBytes(of: mxcsr, toByteOffset: 24, as: UInt32.self)
    var pointers = unsafe Pointers(core.s)
    pointers.codeSelector = wide ? 0 : UInt16(truncatingIfNeeded: pointers.instruction >> 32)
    pointers.dataSelector = wide ? 0 : UInt16(truncatingIfNeeded: pointers.data >> 32)
    if !wide {
      pointers.instruction &= 0xFFFF_FFFF
      pointers.data &= 0xFFFF_FFFF
    }
    // Bits that do not exist read as the hardware has them.
    let control = unsafe image.load(as: UInt16.self)
    unsafe image.storeBytes(of: control & 0x1F7F | 0x40, as: UInt16.self)
    var status = unsafe image.load(fromByteOffset: 2, as: UInt16.self) & 0x7F7F
    if status & ~control & 0x3F != 0 { status |= 0x8080 }
    unsafe image.storeBytes(of: status, toByteOffset: 2, as: UInt16.self)
    unsafe image.storeBytes(of: 0, toByteOffset: 5, as: UInt8.self)
    if !StubArena.shared.savesPointers, status & 0x80 == 0 { pointers = old }
    unsafe pointers.store(core.s)
    for slot in 0..<8 {
      unsafe (image + 32 + slot * 16 + 10).initializeMemory(as: UInt8.self, repeating: 0, count: 6)
    }
  }

  private static func initializeX87(_ core: Core) {
    let image = unsafe x86_xsave(core.s)
    unsafe image.initializeMemory(as: UInt8.self, repeating: 0, count: 24)
    unsafe (image + 32).initializeMemory(as: UInt8.self, repeating: 0, count: 128)
    unsafe image.storeBytes(of: 0x37F, as: UInt16.self)
  }

  // MARK: - FXSAVE, FXRSTOR

  static func fxsave(_ core: Core, _ i: UnsafePointer<X86Instruction>) throws(GuestFault) {
    let at = try unsafe area(core, i, alignment: 16)
    let image = unsafe x86_xsave(core.s)
    let buffer = unsafe x86_bounce(core.s)
    let wide = unsafe is64(i) && i.pointee.vexW != 0
    unsafe legacyHead(core, wide: wide, into: buffer)
    let count = unsafe is64(i) ? 256 : 128
    unsafe (buffer + 160).copyMemory(from: image + 160, byteCount: count)
    // The rest of the 512 bytes is left as it is, but must be writable.
    try core.checkWrite(unsafe i.pointee.segment, at, count: 512)
    try unsafe core.write(i.pointee.segment, at, from: buffer, count: 160 + count)
  }

  static func fxrstor(_ core: Core, _ i: UnsafePointer<X86Instruction>) throws(GuestFault) {
    let at = try unsafe area(core, i, alignment: 16)
    let image = unsafe x86_xsave(core.s)
    let buffer = unsafe x86_bounce(core.s)
    try unsafe core.read(i.pointee.segment, at, into: buffer, count: 512)
    let mxcsr = unsafe buffer.load(fromByteOffset: 24, as: UInt32.self)
    if mxcsr & ~maskMXCSR != 0 { throw core.fault(ExceptionVector.generalProtection, 0) }
    unsafe loadX87(core, from: buffer, wide: is64(i) && i.pointee.vexW != 0)
    unsafe image.storeBytes(of: mxcsr, toByteOffset: 24, as: UInt32.self)
    unsafe (image + 160).copyMemory(from: buffer + 160, byteCount: is64(i) ? 256 : 128)
  }

  // MARK: - XSAVE

  /// EDX:EAX, limited to what XCR0 allows.
  private static func requested(_ core: Core) -> UInt64 {
    (core.r64(2) << 32 | core.r64(0) & 0xFFFF_FFFF) & core.xcr0
  }

  private static func isZero(_ p: UnsafeRawPointer, count: Int) -> Bool {
    var sum: UInt64 = 0
    for n in stride(from: 0, to: count, by: 8) {
      sum |= unsafe p.load(fromByteOffset: n, as: UInt64.self)
    }
    return sum == 0
  }

  /// Components that are not in their initial configuration (XINUSE).
  private static func inUse(_ core: Core) -> UInt64 {
    let image = unsafe x86_xsave(core.s)
    var bits: UInt64 = 0
    let head = unsafe image.load(as: UInt64.self)
    if unsafe head != 0x37F || !isZero(image + 8, count: 16) || !isZero(image + 32, count: 128) {
      bits |= 1
    }
    if unsafe !isZero(image + 160, count: 256) { bits |= 2 }
    if unsafe !isZero(image + 576, count: 256) { bits |= 4 }
    return bits
  }

  static func xsave(_ core: Core, _ i: UnsafePointer<X86Instruction>) throws(GuestFault) {
    let at = try unsafe area(core, i, alignment: 64)
    let kind = unsafe Entry(bits: i.pointee.vectorEntry).kind
    let segment = unsafe i.pointee.segment
    let image = unsafe x86_xsave(core.s)
    let buffer = unsafe x86_bounce(core.s)
    let mask = requested(core)
    let isCompact = kind == .xsavec
    var used = inUse(core)
    let mxcsr = unsafe image.load(fromByteOffset: 24, as: UInt32.self)
    // XSAVEC counts MXCSR to the SSE state.
    if isCompact, mxcsr != 0x1F80 { used |= 2 }
    let written = kind == .xsave ? mask : mask & used
    let total = mask & 4 != 0 ? 832 : 576
    try core.checkWrite(segment, at, count: total)
    unsafe legacyHead(
      core, wide: is64(i) && i.pointee.vexW != 0, into: buffer)
    if written & 1 != 0 {
      try unsafe core.write(segment, at, from: buffer, count: 24)
      try unsafe core.write(segment, at &+ 32, from: buffer + 32, count: 128)
    }
    // MXCSR goes with SSE or AVX in the standard form, with SSE in the compacted one.
    if (isCompact ? written & 2 : mask & 6) != 0 {
      try unsafe core.write(segment, at &+ 24, from: buffer + 24, count: 8)
    }
    if written & 2 != 0 {
      try unsafe core.write(segment, at &+ 160, from: image + 160, count: is64(i) ? 256 : 128)
    }
    if written & 4 != 0 {
      try unsafe core.write(segment, at &+ 576, from: image + 576, count: is64(i) ? 256 : 128)
    }
    if isCompact {
      try core.store(segment, at &+ 512, mask & used)
      try core.store(segment, at &+ 520, mask | 1 << 63)
      return
    }
    let old = try core.load(segment, at &+ 512, UInt64.self)
    try core.store(segment, at &+ 512, old & ~mask | mask & used)
  }

  static func xrstor(_ core: Core, _ i: UnsafePointer<X86Instruction>) throws(GuestFault) {
    let at = try unsafe area(core, i, alignment: 64)
    let segment = unsafe i.pointee.segment
    let image = unsafe x86_xsave(core.s)
    let buffer = unsafe x86_bounce(core.s)
    let mask = requested(core)
    let vectors = unsafe is64(i) ? 256 : 128
    try unsafe core.read(segment, at, into: buffer, count: 576)
    let present = unsafe buffer.load(fromByteOffset: 512, as: UInt64.self)
    let compaction = unsafe buffer.load(fromByteOffset: 520, as: UInt64.self)
    let isCompact = compaction >> 63 != 0
    let isBad: Bool
    if isCompact {
      isBad =
        unsafe core.s.pointee.features >> UInt64(GuestFeature.xsavec) & 1 == 0
        || compaction & ~(core.xcr0 | 1 << 63) != 0 || present & ~compaction != 0
        || !isZero(buffer + 528, count: 48)
    } else {
      isBad =
        unsafe present & ~core.xcr0 != 0 || !isZero(buffer + 520, count: 16)
    }
    if isBad { throw core.fault(ExceptionVector.generalProtection, 0) }
    var mxcsr = unsafe buffer.load(fromByteOffset: 24, as: UInt32.self)
    let loadsMXCSR: Bool
    if isCompact {
      loadsMXCSR = mask & 2 != 0
      if present & 2 == 0 { mxcsr = 0x1F80 }
    } else {
      loadsMXCSR = mask & 6 != 0
    }
    if loadsMXCSR, mxcsr & ~maskMXCSR != 0 {
      throw core.fault(ExceptionVector.generalProtection, 0)
    }
    // All that can fault comes first.
    let upper = unsafe buffer + 576
    if mask & present & 4 != 0 {
      try unsafe core.read(segment, at &+ 576, into: upper, count: vectors)
    }
    if mask & 1 != 0 {
      if present & 1 != 0 {
        unsafe loadX87(core, from: buffer, wide: is64(i) && i.pointee.vexW != 0)
      } else {
        initializeX87(core)
      }
    }
    if loadsMXCSR { unsafe image.storeBytes(of: mxcsr, toByteOffset: 24, as: UInt32.self) }
    if mask & 2 != 0 {
      if present & 2 != 0 {
        unsafe (image + 160).copyMemory(from: buffer + 160, byteCount: vectors)
      } else {
        unsafe (image + 160).initializeMemory(as: UInt8.self, repeating: 0, count: vectors)
      }
    }
    if mask & 4 != 0 {
      if present & 4 != 0 {
        unsafe (image + 576).copyMemory(from: upper, byteCount: vectors)
      } else {
        unsafe (image + 576).initializeMemory(as: UInt8.self, repeating: 0, count: vectors)
      }
    }
  }
}
