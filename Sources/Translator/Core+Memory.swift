package import CX86

/// Guest memory by segment and offset, and by linear address.
///
/// The fast path compares one window (segment limits) and one TLB tag; everything else is below it: limits and rights, page
/// crossing, device memory, code pages, watchpoints.
extension Core {
  /// Whose rights an access has; the index of the TLB in use.
  struct AccessClass {
    /// CPL 0 to 2, or the processor's own accesses to descriptor tables and task state.
    static let supervisor = 0
    static let user = 1
    /// Supervisor with EFLAGS.AC set under SMAP.
    static let supervisorWithAC = 2
  }

  static var pageMask: UInt64 { 0xFFF }
  /// No page's address: the empty tag of the instruction TLB.
  static var noTag: UInt64 { UInt64.max }

  @inline(__always) func tlbEntry(_ linear: UInt64) -> UnsafeMutablePointer<X86TLBEntry> {
    // SAFETY: the index is masked to the array's size.
    unsafe s.pointee.tlb + Int(linear &>> 12 & UInt64(X86_TLB_ENTRIES - 1))
  }

  func tlbEntry(_ linear: UInt64, class access: Int) -> UnsafeMutablePointer<X86TLBEntry> {
    // SAFETY: as above; `access` is 0, 1 or 2.
    let base = unsafe UnsafeMutableRawPointer(s).advanced(
      by: Int(X86_TLB_OFFSET) + access * Int(X86_TLB_ENTRIES) * 32)
    return unsafe base.assumingMemoryBound(to: X86TLBEntry.self)
      + Int(linear &>> 12 & UInt64(X86_TLB_ENTRIES - 1))
  }

  var accessClass: Int {
    if cpl == 3 { return AccessClass.user }
    if cr4 & CR4.smap != 0 && eflags & EFLAGS.ac != 0 { return AccessClass.supervisorWithAC }
    return AccessClass.supervisor
  }

  // MARK: - Fast path

  /// Host memory of a readable operand of 1 to 4096 bytes that is one piece of RAM; nil: go the slow way.
  @inline(__always) func readPointer(
    _ segment: UInt8, _ offset: UInt64, _ size: UInt64
  ) -> UnsafeMutableRawPointer? {
    let w = unsafe window(segment)
    if unsafe offset &+ size > w.pointee.readEnd { return nil }
    let linear = unsafe (offset &+ w.pointee.base) & linearMask
    let e = unsafe tlbEntry(linear)
    // One comparison: the page's tag, and an operand that stays within the page.
    let inPage = unsafe linear &- e.pointee.readTag
    if inPage > 4096 &- size { return nil }
    return unsafe UnsafeMutableRawPointer(bitPattern: UInt(e.pointee.host &+ inPage))
  }

  /// Host memory of a writable operand of 1 to 4096 bytes that is one piece of RAM without code; nil: go the slow way.
  @inline(__always) func writePointer(
    _ segment: UInt8, _ offset: UInt64, _ size: UInt64
  ) -> UnsafeMutableRawPointer? {
    let w = unsafe window(segment)
    if unsafe offset &+ size > w.pointee.writeEnd { return nil }
    let linear = unsafe (offset &+ w.pointee.base) & linearMask
    let e = unsafe tlbEntry(linear)
    // One comparison: the page's tag, and an operand that stays within the page.
    let inPage = unsafe linear &- e.pointee.writeTag
    if inPage > 4096 &- size { return nil }
    return unsafe UnsafeMutableRawPointer(bitPattern: UInt(e.pointee.host &+ inPage))
  }

  @inline(__always) func load<T: FixedWidthInteger & BitwiseCopyable>(
    _ segment: UInt8, _ offset: UInt64, _ type: T.Type
  ) throws(GuestFault) -> T {
    if let p = unsafe readPointer(segment, offset, UInt64(MemoryLayout<T>.size)) {
      return unsafe p.loadUnaligned(as: T.self)
    }
    return T(truncatingIfNeeded: try loadSlow(segment, offset, UInt64(MemoryLayout<T>.size)))
  }

  @inline(__always) func store<T: FixedWidthInteger & BitwiseCopyable>(
    _ segment: UInt8, _ offset: UInt64, _ value: T
  ) throws(GuestFault) {
    if let p = unsafe writePointer(segment, offset, UInt64(MemoryLayout<T>.size)) {
      unsafe p.storeBytes(of: value, as: T.self)
      return
    }
    try storeSlow(
      segment, offset, UInt64(MemoryLayout<T>.size), UInt64(truncatingIfNeeded: value))
  }

  /// A memory operand of `size` (1, 2, 4 or 8) bytes, zero-extended.
  @inline(__always) func load(
    _ segment: UInt8, _ offset: UInt64, size: UInt8
  ) throws(GuestFault) -> UInt64 {
    if let p = unsafe readPointer(segment, offset, UInt64(size)) {
      switch size {
      case 1: return UInt64(unsafe p.loadUnaligned(as: UInt8.self))
      case 2: return UInt64(unsafe p.loadUnaligned(as: UInt16.self))
      case 4: return UInt64(unsafe p.loadUnaligned(as: UInt32.self))
      default: return unsafe p.loadUnaligned(as: UInt64.self)
      }
    }
    return try loadSlow(segment, offset, UInt64(size))
  }

  @inline(__always) func store(
    _ segment: UInt8, _ offset: UInt64, size: UInt8, _ value: UInt64
  ) throws(GuestFault) {
    if let p = unsafe writePointer(segment, offset, UInt64(size)) {
      switch size {
      case 1: unsafe p.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
      case 2: unsafe p.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
      case 4: unsafe p.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
      default: unsafe p.storeBytes(of: value, as: UInt64.self)
      }
      return
    }
    try storeSlow(segment, offset, UInt64(size), value)
  }

  // MARK: - Slow path

  @inline(never) func loadSlow(
    _ segment: UInt8, _ offset: UInt64, _ size: UInt64
  ) throws(GuestFault) -> UInt64 {
    let linear = try self.linear(segment, offset, size, write: false)
    return try readLinear(linear, size, class: accessClass)
  }

  @inline(never) func storeSlow(
    _ segment: UInt8, _ offset: UInt64, _ size: UInt64, _ value: UInt64
  ) throws(GuestFault) {
    let linear = try self.linear(segment, offset, size, write: true)
    try writeLinear(linear, size, value, class: accessClass)
  }

  /// Raises what a write to the operand would raise, without writing.
  @inline(never) func checkWriteSlow(
    _ segment: UInt8, _ offset: UInt64, _ size: UInt64
  ) throws(GuestFault) {
    let linear = try self.linear(segment, offset, size, write: true)
    try checkLinear(linear, size, write: true, class: accessClass)
  }

  @inline(__always) func checkWrite(
    _ segment: UInt8, _ offset: UInt64, size: UInt8
  ) throws(GuestFault) {
    if unsafe writePointer(segment, offset, UInt64(size)) != nil { return }
    try checkWriteSlow(segment, offset, UInt64(size))
  }

  /// Linear address of an operand after all checks of segmentation (SDM vol. 3A, 5.3 and 3.4.5).
  func linear(
    _ segment: UInt8, _ offset: UInt64, _ size: UInt64, write: Bool
  ) throws(GuestFault) -> UInt64 {
    let seg = self.segment(segment)
    let vector = segment == 2 ? ExceptionVector.stack : ExceptionVector.generalProtection
    var linear: UInt64
    if codeSize == 8 {
      linear = offset &+ (segment >= 4 ? seg.base : 0)
      if !isCanonical(linear) || !isCanonical(linear &+ size &- 1) { throw fault(vector, 0) }
    } else {
      let attributes = seg.attributes
      let isReal = cr0 & CR0.pe == 0 || eflags & EFLAGS.vm != 0
      if !isReal {
        if attributes & 0x80 == 0 || attributes & 0x10 == 0 { throw fault(vector, 0) }
        let isCode = attributes & 8 != 0
        if write ? (isCode || attributes & 2 == 0) : (isCode && attributes & 2 == 0) {
          throw fault(vector, 0)
        }
      }
      let limit = UInt64(seg.limit)
      let last = offset &+ size &- 1
      if attributes & 0x0C == 0x04 {
        let top: UInt64 = attributes & 0x4000 != 0 ? 0xFFFF_FFFF : 0xFFFF
        if offset <= limit || last > top || last < offset { throw fault(vector, 0) }
      } else if last > limit || last < offset {
        throw fault(vector, 0)
      }
      linear = (offset &+ seg.base) & 0xFFFF_FFFF
    }
    if cpl == 3 && size > 1 && linear & (size &- 1) != 0 && cr0 & CR0.am != 0
      && eflags & EFLAGS.ac != 0 && size <= 8
    {
      throw fault(ExceptionVector.alignment, 0)
    }
    return linear
  }

  @inline(__always) func isCanonical(_ linear: UInt64) -> Bool {
    let sign = Int64(bitPattern: linear) &>> 47
    return sign == 0 || sign == -1
  }

  /// What lies behind one linear address. Used before anything that may wait (`CoreEnvironment.outside`), or not at all.
  @safe struct Target {
    /// Host address of the byte; 0: no RAM there.
    var host: UInt64
    var physical: UInt64
    /// Address of the page's flag byte.
    var flags: UInt64
    var isReadOnly: Bool

    func advanced(by delta: UInt64) -> Target {
      Target(
        host: host == 0 ? 0 : host &+ delta, physical: physical &+ delta, flags: flags,
        isReadOnly: isReadOnly)
    }
  }

  func readLinear(
    _ linear: UInt64, _ size: UInt64, class access: Int
  ) throws(GuestFault) -> UInt64 {
    if environment.watchesData { noteWatch(linear, size, write: false) }
    if linear & Core.pageMask &+ size <= 4096 {
      return readTarget(try resolve(linear, write: false, class: access), size)
    }
    let first = 4096 &- (linear & Core.pageMask)
    let next = (linear &+ first) & linearMask
    // Both for their faults. Then each for its access at once: a device, or a page that comes from elsewhere, may let the vCPU's
    // host addresses grow old.
    _ = try resolve(linear, write: false, class: access)
    _ = try resolve(next, write: false, class: access)
    let low = readPart(try resolve(linear, write: false, class: access), first)
    let high = readPart(try resolve(next, write: false, class: access), size &- first)
    return low | high &<< (first &* 8)
  }

  /// Up to 8 bytes of one page, in naturally aligned accesses.
  private func readPart(_ target: Target, _ count: UInt64) -> UInt64 {
    var value: UInt64 = 0
    var done: UInt64 = 0
    while done < count {
      let width = partWidth(target.physical &+ done, count &- done)
      value |= readTarget(target.advanced(by: done), width) &<< (done &* 8)
      done &+= width
    }
    return value
  }

  private func writePart(_ target: Target, _ count: UInt64, _ value: UInt64) {
    var done: UInt64 = 0
    while done < count {
      let width = partWidth(target.physical &+ done, count &- done)
      writeTarget(target.advanced(by: done), width, value &>> (done &* 8))
      done &+= width
    }
  }

  private func partWidth(_ physical: UInt64, _ count: UInt64) -> UInt64 {
    var width: UInt64 = 4
    while width > count || physical & (width &- 1) != 0 { width &>>= 1 }
    return width
  }

  func writeLinear(
    _ linear: UInt64, _ size: UInt64, _ value: UInt64, class access: Int
  ) throws(GuestFault) {
    if environment.watchesData { noteWatch(linear, size, write: true) }
    if linear & Core.pageMask &+ size <= 4096 {
      writeTarget(try resolve(linear, write: true, class: access), size, value)
      return
    }
    let first = 4096 &- (linear & Core.pageMask)
    let next = (linear &+ first) & linearMask
    _ = try resolve(linear, write: true, class: access)
    _ = try resolve(next, write: true, class: access)
    writePart(try resolve(linear, write: true, class: access), first, value)
    writePart(
      try resolve(next, write: true, class: access), size &- first, value &>> (first &* 8))
  }

  func checkLinear(
    _ linear: UInt64, _ size: UInt64, write: Bool, class access: Int
  ) throws(GuestFault) {
    _ = try resolve(linear, write: write, class: access)
    if size > 0, linear & Core.pageMask &+ size > 4096 {
      let next = (linear & ~Core.pageMask) &+ 4096
      _ = try resolve(next & linearMask, write: write, class: access)
    }
  }

  /// Changes an operand that lies in two pages of RAM, both this node's to write from the read to the write. False, with nothing done: it
  /// does not, or one of them is no RAM. The caller has the split lock.
  func modifyAcross(
    _ linear: UInt64, _ size: UInt64, class access: Int, _ change: (UInt64) -> UInt64
  ) throws(GuestFault) -> Bool {
    let first = 4096 &- (linear & Core.pageMask)
    if first >= size { return false }
    let next = (linear &+ first) & linearMask
    var attempts: UInt32 = 0
    while true {
      let before = environment.timesOutside
      let low = try resolve(linear, write: true, class: access)
      let high = try resolve(next, write: true, class: access)
      if environment.timesOutside != before {
        // A page had to come from elsewhere, and the other may be gone since. Others may want the same two.
        attempts &+= 1
        if attempts > 2 { environment.pauseForOthers(attempts) }
        continue
      }
      if low.host == 0 || high.host == 0 || low.isReadOnly || high.isReadOnly { return false }
      if environment.watchesData { noteWatch(linear, size, write: true) }
      let value = change(readPart(low, first) | readPart(high, size &- first) &<< (first &* 8))
      writePart(low, first, value)
      writePart(high, size &- first, value &>> (first &* 8))
      return true
    }
  }

  private func readTarget(_ t: Target, _ size: UInt64) -> UInt64 {
    // SAFETY: `host` came from a slot's translation; accesses stay within its page.
    if let p = unsafe UnsafeRawPointer(bitPattern: UInt(t.host)) {
      switch size {
      case 1: return UInt64(unsafe p.loadUnaligned(as: UInt8.self))
      case 2: return UInt64(unsafe p.loadUnaligned(as: UInt16.self))
      case 4: return UInt64(unsafe p.loadUnaligned(as: UInt32.self))
      default: return unsafe p.loadUnaligned(as: UInt64.self)
      }
    }
    return environment.readDevice(t.physical, Int(size))
  }

  private func writeTarget(_ t: Target, _ size: UInt64, _ value: UInt64) {
    if !t.isReadOnly, let p = unsafe UnsafeMutableRawPointer(bitPattern: UInt(t.host)) {
      switch size {
      case 1: unsafe p.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
      case 2: unsafe p.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
      case 4: unsafe p.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
      default: unsafe p.storeBytes(of: value, as: UInt64.self)
      }
      if t.flags != 0, unsafe x86_flags_load(t.flags) & 1 != 0 {
        environment.codeWasWritten(t.physical, flags: t.flags, length: size)
      }
      return
    }
    environment.writeDevice(t.physical, Int(size), value)
  }

  // MARK: - Ranges of bytes

  /// Reads `count` bytes of guest memory at an offset in a segment, faulting before anything is lost.
  package func read(
    _ segment: UInt8, _ offset: UInt64, into destination: UnsafeMutableRawPointer, count: Int
  ) throws(GuestFault) {
    let total = UInt64(truncatingIfNeeded: count)
    let start = try linear(segment, offset, total, write: false)
    try unsafe readBytes(start, into: destination, count: total, class: accessClass)
  }

  /// Writes `count` bytes; nothing is written when any of them faults (up to two pages).
  package func write(
    _ segment: UInt8, _ offset: UInt64, from source: UnsafeRawPointer, count: Int
  ) throws(GuestFault) {
    let total = UInt64(truncatingIfNeeded: count)
    let start = try linear(segment, offset, total, write: true)
    try checkLinear(start, total, write: true, class: accessClass)
    try unsafe writeBytes(start, from: source, count: total, class: accessClass)
  }

  package func checkWrite(_ segment: UInt8, _ offset: UInt64, count: Int) throws(GuestFault) {
    let total = UInt64(truncatingIfNeeded: count)
    let start = try linear(segment, offset, total, write: true)
    try checkLinear(start, total, write: true, class: accessClass)
  }

  func readBytes(
    _ start: UInt64, into destination: UnsafeMutableRawPointer, count: UInt64, class access: Int
  ) throws(GuestFault) {
    if environment.watchesData { noteWatch(start, count, write: false) }
    var done: UInt64 = 0
    while done < count {
      let at = (start &+ done) & linearMask
      let t = try resolve(at, write: false, class: access)
      let step = min(4096 &- (at & Core.pageMask), count &- done)
      if let p = unsafe UnsafeRawPointer(bitPattern: UInt(t.host)) {
        unsafe (destination + Int(done)).copyMemory(from: p, byteCount: Int(step))
      } else {
        try deviceBytes(t.physical, step) { offset, width in
          let value = environment.readDevice(t.physical &+ offset, Int(width))
          for k in 0..<width {
            unsafe destination.storeBytes(
              of: UInt8(truncatingIfNeeded: value &>> (k &* 8)),
              toByteOffset: Int(done &+ offset &+ k), as: UInt8.self)
          }
        }
      }
      done &+= step
    }
  }

  func writeBytes(
    _ start: UInt64, from source: UnsafeRawPointer, count: UInt64, class access: Int
  ) throws(GuestFault) {
    if environment.watchesData { noteWatch(start, count, write: true) }
    var done: UInt64 = 0
    while done < count {
      let at = (start &+ done) & linearMask
      let t = try resolve(at, write: true, class: access)
      let step = min(4096 &- (at & Core.pageMask), count &- done)
      if !t.isReadOnly, let p = unsafe UnsafeMutableRawPointer(bitPattern: UInt(t.host)) {
        unsafe p.copyMemory(from: source + Int(done), byteCount: Int(step))
        if t.flags != 0, unsafe x86_flags_load(t.flags) & 1 != 0 {
          environment.codeWasWritten(t.physical, flags: t.flags, length: step)
        }
      } else {
        try deviceBytes(t.physical, step) { offset, width in
          var value: UInt64 = 0
          for k in 0..<width {
            let byte = unsafe source.load(
              fromByteOffset: Int(done &+ offset &+ k), as: UInt8.self)
            value |= UInt64(byte) &<< (k &* 8)
          }
          environment.writeDevice(t.physical &+ offset, Int(width), value)
        }
      }
      done &+= step
    }
  }

  /// Splits a stretch of device memory into naturally aligned accesses of up to 8 bytes.
  private func deviceBytes(
    _ physical: UInt64, _ count: UInt64, _ body: (UInt64, UInt64) -> Void
  ) throws(GuestFault) {
    var offset: UInt64 = 0
    while offset < count {
      var width: UInt64 = 8
      while width > count &- offset || (physical &+ offset) & (width &- 1) != 0 { width &>>= 1 }
      body(offset, width)
      offset &+= width
    }
  }

  // MARK: - The processor's own accesses: descriptor tables, task state

  func readSystem(_ linear: UInt64, _ size: UInt64) throws(GuestFault) -> UInt64 {
    let mask: UInt64 = efer & EFER.lma != 0 ? UInt64.max : 0xFFFF_FFFF
    return try readLinear(linear & mask, size, class: AccessClass.supervisor)
  }

  func writeSystem(_ linear: UInt64, _ size: UInt64, _ value: UInt64) throws(GuestFault) {
    let mask: UInt64 = efer & EFER.lma != 0 ? UInt64.max : 0xFFFF_FFFF
    try writeLinear(linear & mask, size, value, class: AccessClass.supervisor)
  }

  // MARK: - Faults

  /// Makes an exception with an error code pending, to be thrown.
  @inline(never) package func fault(_ vector: UInt8, _ code: UInt32) -> GuestFault {
    faultVector = vector
    faultHasCode = 1
    faultCode = code
    return GuestFault()
  }

  /// Makes an exception without error code pending, to be thrown.
  @inline(never) package func fault(_ vector: UInt8) -> GuestFault {
    faultVector = vector
    faultHasCode = 0
    faultCode = 0
    return GuestFault()
  }
}
