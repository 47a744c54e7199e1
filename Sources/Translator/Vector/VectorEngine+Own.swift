package import CX86

// Instructions whose memory accesses the engine makes itself: masked moves and gathers, element by element.

extension VectorEngine {
  /// Completes instructions that have no stub. Nil: not one of them.
  static func prepareOwn(_ i: inout X86Instruction) -> Bool? {
    let vex = i.prefixes & UInt8(X86_PREFIX_VEX) != 0
    let sub = i.modrm >> 3 & 7
    let isMemory = i.modrm < 0xC0
    switch (i.map, i.opcode) {
    case (1, 0xAE):
      guard isMemory, i.pp == 0 else { return false }
      return vex ? prepareMXCSR(&i, sub, vex: true) : prepareGroup15(&i, sub)
    case (1, 0xC7):
      guard !vex, isMemory, i.pp == 0, sub == 4 else { return false }
      return own(&i, .xsavec, GuestFeature.xsavec)
    case (1, 0x77) where vex:
      guard i.pp == 0, i.vexV == 0 else { return false }
      let kind: Entry.Kind = i.vexL != 0 ? .zeroAll : .zeroUpper
      i.vectorEntry = Entry(kind, feature: GuestFeature.avx, flags: Entry.usesVEX).bits
      return true
    case (1, 0xF7):
      guard !isMemory else { return false }
      if vex {
        guard i.pp == 1, i.vexL == 0, i.vexV == 0 else { return false }
        return own(&i, .maskMove, GuestFeature.avx, Entry.usesVEX)
      }
      if i.pp == 1 { return own(&i, .maskMove, GuestFeature.sse2) }
      return i.pp == 0 ? own(&i, .maskMove, GuestFeature.sse, Entry.usesMMX) : false
    case (2, 0x2C...0x2F) where vex:
      guard i.pp == 1, isMemory, i.vexW == 0 else { return false }
      let kind: Entry.Kind = i.opcode < 0x2E ? .maskedLoad : .maskedStore
      return own(&i, kind, GuestFeature.avx, Entry.usesVEX)
    case (2, 0x8C) where vex, (2, 0x8E) where vex:
      guard i.pp == 1, isMemory else { return false }
      let kind: Entry.Kind = i.opcode == 0x8C ? .maskedLoad : .maskedStore
      return own(&i, kind, GuestFeature.avx2, Entry.usesVEX)
    case (2, 0x90...0x93) where vex:
      return prepareGather(&i)
    default: return nil
    }
  }

  private static func own(
    _ i: inout X86Instruction, _ kind: Entry.Kind, _ feature: UInt32, _ flags: UInt32 = 0
  ) -> Bool {
    i.memoryAccess = UInt8(X86_ACCESS_OWN)
    i.vectorEntry = Entry(kind, feature: feature, flags: flags).bits
    if i.codeSize != 8 { i.vexV &= 7 }
    return true
  }

  private static func prepareMXCSR(_ i: inout X86Instruction, _ sub: UInt8, vex: Bool) -> Bool {
    guard sub == 2 || sub == 3 else { return false }
    if vex, i.vexL != 0 || i.vexV != 0 { return false }
    i.memorySize = 4
    i.memoryAccess = UInt8(sub == 2 ? X86_ACCESS_READ : X86_ACCESS_WRITE)
    i.vectorEntry =
      Entry(
        sub == 2 ? .loadMXCSR : .storeMXCSR, feature: vex ? GuestFeature.avx : GuestFeature.sse,
        flags: vex ? Entry.usesVEX : 0
      ).bits
    return true
  }

  private static func prepareGroup15(_ i: inout X86Instruction, _ sub: UInt8) -> Bool {
    switch sub {
    case 0: own(&i, .fxsave, GuestFeature.fxsr)
    case 1: own(&i, .fxrstor, GuestFeature.fxsr)
    case 2, 3: prepareMXCSR(&i, sub, vex: false)
    case 4: own(&i, .xsave, GuestFeature.xsave)
    case 5: own(&i, .xrstor, GuestFeature.xsave)
    case 6: own(&i, .xsaveopt, GuestFeature.xsaveopt)
    default: false
    }
  }

  private static func prepareGather(_ i: inout X86Instruction) -> Bool {
    guard i.pp == 1, i.modrm < 0xC0, i.modrm & 7 == 4 else { return false }
    if i.codeSize != 8 { i.vexV &= 7 }
    let index = gatherIndex(i)
    if index == i.reg || index == i.vexV || i.reg == i.vexV { return false }
    // The core would add the scaled general register.
    i.index = UInt8(X86_REGISTER_NONE)
    return own(&i, .gather, GuestFeature.avx2, Entry.usesVEX)
  }

  /// The vector register that SIB names as index.
  private static func gatherIndex(_ i: X86Instruction) -> UInt8 {
    let sib = unsafe withUnsafeBytes(of: i.bytes) { bytes in
      // SAFETY: 15 bytes; the index is masked to be among them.
      unsafe bytes[min(14, Int(i.opcodeOffset) + 2)]
    }
    return sib >> 3 & 7 | (i.rex & 2) << 2
  }

  /// Executes an instruction of access kind OWN, after `check`.
  package static func executeOwn(
    _ core: Core, _ i: UnsafePointer<X86Instruction>
  ) throws(GuestFault) {
    // SAFETY: a decoded instruction, for this call.
    switch unsafe Entry(bits: i.pointee.vectorEntry).kind {
    case .fxsave: try unsafe fxsave(core, i)
    case .fxrstor: try unsafe fxrstor(core, i)
    case .xsave, .xsaveopt, .xsavec: try unsafe xsave(core, i)
    case .xrstor: try unsafe xrstor(core, i)
    case .gather: try unsafe gather(core, i)
    case .maskedLoad: try unsafe maskedLoad(core, i)
    case .maskedStore: try unsafe maskedStore(core, i)
    case .maskMove: try unsafe maskMove(core, i)
    default: throw core.fault(ExceptionVector.undefined)
    }
  }

  // MARK: - Elements of vector registers

  /// Offset of byte `byte` (0 to 31) of a YMM register in the XSAVE area.
  @inline(__always) private static func offset(_ register: UInt8, _ byte: Int) -> Int {
    (byte < 16 ? 160 : 576 - 16) + Int(register & 15) * 16 + byte
  }

  @inline(__always) private static func element(
    _ image: UnsafeMutableRawPointer, _ register: UInt8, _ index: Int, size: Int
  ) -> UInt64 {
    // SAFETY: within the 4096 bytes of the image: index * size is below 32.
    let at = offset(register, index * size)
    return unsafe size == 4
      ? UInt64(image.load(fromByteOffset: at, as: UInt32.self))
      : image.load(fromByteOffset: at, as: UInt64.self)
  }

  @inline(__always) private static func setElement(
    _ image: UnsafeMutableRawPointer, _ register: UInt8, _ index: Int, size: Int, _ value: UInt64
  ) {
    // SAFETY: as for `element`.
    let at = offset(register, index * size)
    if size == 4 {
      unsafe image.storeBytes(
        of: UInt32(truncatingIfNeeded: value), toByteOffset: at, as: UInt32.self)
    } else {
      unsafe image.storeBytes(of: value, toByteOffset: at, as: UInt64.self)
    }
  }

  /// Clears the bytes of a YMM register from `from` on.
  private static func clear(_ image: UnsafeMutableRawPointer, _ register: UInt8, from: Int) {
    for byte in from..<32 {
      // SAFETY: as for `element`.
      unsafe image.storeBytes(of: 0, toByteOffset: offset(register, byte), as: UInt8.self)
    }
  }

  private static func read(
    _ core: Core, _ segment: UInt8, _ offset: UInt64, size: Int
  ) throws(GuestFault) -> UInt64 {
    try core.load(segment, offset, size: UInt8(truncatingIfNeeded: size))
  }

  // MARK: - VMASKMOV, VPMASKMOV

  /// Size of the elements: 4 or 8.
  private static func elementSize(_ i: UnsafePointer<X86Instruction>) -> Int {
    // SAFETY: as for `executeOwn`.
    switch unsafe i.pointee.opcode {
    case 0x2C, 0x2E: 4
    case 0x2D, 0x2F: 8
    default: unsafe i.pointee.vexW != 0 ? 8 : 4
    }
  }

  private static func maskedLoad(
    _ core: Core, _ i: UnsafePointer<X86Instruction>
  ) throws(GuestFault) {
    // SAFETY: as for `executeOwn`; the image belongs to the state.
    let image = unsafe x86_xsave(core.s)
    let size = unsafe elementSize(i)
    let count = unsafe (i.pointee.vexL != 0 ? 32 : 16) / size
    let at = unsafe core.effectiveAddress(i)
    let mask = unsafe i.pointee.vexV
    let addressMask = unsafe i.pointee.addressMask
    var values: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (
      0, 0, 0, 0, 0, 0, 0, 0
    )
    for n in 0..<count
    where unsafe element(image, mask, n, size: size) >> UInt64(size * 8 - 1) & 1 != 0 {
      let address = (at &+ UInt64(n * size)) & addressMask
      let value = try read(core, unsafe i.pointee.segment, address, size: size)
      // SAFETY: eight words, n is below eight.
      unsafe withUnsafeMutableBytes(of: &values) { bytes in
        unsafe bytes.storeBytes(of: value, toByteOffset: n * 8, as: UInt64.self)
      }
    }
    let destination = unsafe i.pointee.reg
    unsafe withUnsafeBytes(of: values) { bytes in
      for n in 0..<count {
        unsafe setElement(
          image, destination, n, size: size, bytes.load(fromByteOffset: n * 8, as: UInt64.self))
      }
    }
    unsafe clear(image, destination, from: count * size)
  }

  private static func maskedStore(
    _ core: Core, _ i: UnsafePointer<X86Instruction>
  ) throws(GuestFault) {
    // SAFETY: as for `executeOwn`.
    let image = unsafe x86_xsave(core.s)
    let size = unsafe elementSize(i)
    let count = unsafe (i.pointee.vexL != 0 ? 32 : 16) / size
    let at = unsafe core.effectiveAddress(i)
    let mask = unsafe i.pointee.vexV
    let segment = unsafe i.pointee.segment
    let addressMask = unsafe i.pointee.addressMask
    for isStoring in [false, true] {
      for n in 0..<count
      where unsafe element(image, mask, n, size: size) >> UInt64(size * 8 - 1) & 1 != 0 {
        let address = (at &+ UInt64(n * size)) & addressMask
        if isStoring {
          let value = unsafe element(image, i.pointee.reg, n, size: size)
          try core.store(segment, address, size: UInt8(truncatingIfNeeded: size), value)
        } else {
          try core.checkWrite(segment, address, size: UInt8(truncatingIfNeeded: size))
        }
      }
    }
  }

  // MARK: - MASKMOVQ, MASKMOVDQU

  private static func maskMove(
    _ core: Core, _ i: UnsafePointer<X86Instruction>
  ) throws(GuestFault) {
    // SAFETY: as for `executeOwn`.
    let image = unsafe x86_xsave(core.s)
    let isMMX = unsafe Entry(bits: i.pointee.vectorEntry).has(Entry.usesMMX)
    let reg = unsafe i.pointee.reg
    let rm = unsafe i.pointee.rm
    let segment = unsafe i.pointee.segment
    let addressMask = unsafe i.pointee.addressMask
    let base = core.r64(7)
    let count = isMMX ? 8 : 16
    // The host enters MMX mode before it touches memory.
    if isMMX { unsafe enterMMX(image) }
    func byte(_ register: UInt8, _ n: Int) -> UInt8 {
      unsafe image.load(
        fromByteOffset: isMMX ? mmxOffset(image, register) + n : offset(register, n),
        as: UInt8.self)
    }
    // As the host does, all bytes must be writable, also those that the mask leaves out.
    try core.checkWrite(segment, base & addressMask, count: count)
    for n in 0..<count where byte(rm, n) & 0x80 != 0 {
      let address = (base &+ UInt64(n)) & addressMask
      try core.store(segment, address, size: 1, UInt64(byte(reg, n)))
    }
  }

  /// What every MMX instruction does to the x87 state: all tags valid, top of stack 0.
  static func enterMMX(_ image: UnsafeMutableRawPointer) {
    // SAFETY: the XSAVE image.
    let status = unsafe image.load(fromByteOffset: 2, as: UInt16.self)
    unsafe rotate(image, by: Int(status >> 11 & 7))
    unsafe image.storeBytes(of: status & ~0x3800, toByteOffset: 2, as: UInt16.self)
    unsafe image.storeBytes(of: 0xFF, toByteOffset: 4, as: UInt8.self)
  }

  /// Where MMX register `n` stands: the image holds ST0 first, MMX registers are physical ones.
  private static func mmxOffset(_ image: UnsafeMutableRawPointer, _ n: UInt8) -> Int {
    // SAFETY: the image's status word.
    let top = unsafe Int(image.load(fromByteOffset: 2, as: UInt16.self) >> 11 & 7)
    return 32 + (Int(n & 7) + 8 - top) % 8 * 16
  }

  /// Reorders the eight slots for a top of stack of 0.
  private static func rotate(_ image: UnsafeMutableRawPointer, by top: Int) {
    if top == 0 { return }
    for _ in 0..<(8 - top) {
      // SAFETY: slots 0 to 7, 16 bytes each from 32 on.
      let first = unsafe (
        image.load(fromByteOffset: 32, as: UInt64.self),
        image.load(fromByteOffset: 40, as: UInt64.self)
      )
      unsafe (image + 32).copyMemory(from: image + 48, byteCount: 112)
      unsafe image.storeBytes(of: first.0, toByteOffset: 144, as: UInt64.self)
      unsafe image.storeBytes(of: first.1, toByteOffset: 152, as: UInt64.self)
    }
  }

  // MARK: - Gathers

  private static func gather(
    _ core: Core, _ i: UnsafePointer<X86Instruction>
  ) throws(GuestFault) {
    // SAFETY: as for `executeOwn`.
    let image = unsafe x86_xsave(core.s)
    let instruction = unsafe i.pointee
    let size = instruction.vexW != 0 ? 8 : 4
    let indexSize = instruction.opcode & 1 != 0 ? 8 : 4
    let length = instruction.vexL != 0 ? 32 : 16
    let count = length / max(size, indexSize)
    let index = gatherIndex(instruction)
    let base = core.r64(instruction.base) &+ UInt64(bitPattern: Int64(instruction.displacement))
    let mask = instruction.vexV
    let destination = instruction.reg
    for n in 0..<count {
      if unsafe element(image, mask, n, size: size) >> UInt64(size * 8 - 1) & 1 != 0 {
        var position = unsafe element(image, index, n, size: indexSize)
        if indexSize == 4 {
          position = UInt64(bitPattern: Int64(Int32(truncatingIfNeeded: position)))
        }
        let address = (base &+ position &<< UInt64(instruction.scale)) & instruction.addressMask
        // After a fault, what is done stays done.
        let value = try read(core, instruction.segment, address, size: size)
        unsafe setElement(image, destination, n, size: size, value)
      }
      unsafe setElement(image, mask, n, size: size, 0)
    }
    unsafe clear(image, mask, from: 0)
    unsafe clear(image, destination, from: count * size)
  }
}
