package import CX86

/// One vCPU's registers as the interpreter sees them: two words around the state's memory.
///
/// The members are plain loads and stores at fixed offsets; nothing is reference counted.
@safe package struct Core {
  /// Valid as long as the vCPU lives; used by its thread only.
  package let s: UnsafeMutablePointer<X86State>
  /// The vCPU's slow-path collaborators. Not retained: the owner of the state keeps it alive.
  let unmanagedEnvironment: Unmanaged<CoreEnvironment>

  init(_ s: UnsafeMutablePointer<X86State>, _ environment: CoreEnvironment) {
    unsafe self.s = s
    unsafe unmanagedEnvironment = Unmanaged.passUnretained(environment)
  }

  // SAFETY (whole file): `s` is the vCPU's allocation of X86_STATE_BYTES, see init.

  @inline(__always) var environment: CoreEnvironment {
    unsafe unmanagedEnvironment.takeUnretainedValue()
  }
  @inline(__always) package var rip: UInt64 {
    get { unsafe s.pointee.rip }
    nonmutating set { unsafe s.pointee.rip = newValue }
  }
  @inline(__always) package var flags: UInt16 {
    get { unsafe s.pointee.flags }
    nonmutating set { unsafe s.pointee.flags = newValue }
  }
  @inline(__always) package var cpl: UInt8 {
    get { unsafe s.pointee.cpl }
    nonmutating set { unsafe s.pointee.cpl = newValue }
  }
  @inline(__always) package var codeSize: UInt8 {
    get { unsafe s.pointee.codeSize }
    nonmutating set { unsafe s.pointee.codeSize = newValue }
  }
  @inline(__always) package var stackSize: UInt8 {
    get { unsafe s.pointee.stackSize }
    nonmutating set { unsafe s.pointee.stackSize = newValue }
  }
  @inline(__always) package var shadow: UInt8 {
    get { unsafe s.pointee.shadow }
    nonmutating set { unsafe s.pointee.shadow = newValue }
  }
  @inline(__always) package var nmiBlocked: UInt8 {
    get { unsafe s.pointee.nmiBlocked }
    nonmutating set { unsafe s.pointee.nmiBlocked = newValue }
  }
  @inline(__always) package var slowMode: UInt8 {
    get { unsafe s.pointee.slowMode }
    nonmutating set { unsafe s.pointee.slowMode = newValue }
  }
  @inline(__always) package var eflags: UInt32 {
    get { unsafe s.pointee.eflags }
    nonmutating set { unsafe s.pointee.eflags = newValue }
  }
  @inline(__always) package var linearMask: UInt64 {
    get { unsafe s.pointee.linearMask }
    nonmutating set { unsafe s.pointee.linearMask = newValue }
  }
  @inline(__always) package var stackMask: UInt64 {
    get { unsafe s.pointee.stackMask }
    nonmutating set { unsafe s.pointee.stackMask = newValue }
  }
  @inline(__always) package var fetchEnd: UInt64 {
    get { unsafe s.pointee.fetchEnd }
    nonmutating set { unsafe s.pointee.fetchEnd = newValue }
  }
  @inline(__always) package var gdtrBase: UInt64 {
    get { unsafe s.pointee.gdtrBase }
    nonmutating set { unsafe s.pointee.gdtrBase = newValue }
  }
  @inline(__always) package var idtrBase: UInt64 {
    get { unsafe s.pointee.idtrBase }
    nonmutating set { unsafe s.pointee.idtrBase = newValue }
  }
  @inline(__always) package var gdtrLimit: UInt32 {
    get { unsafe s.pointee.gdtrLimit }
    nonmutating set { unsafe s.pointee.gdtrLimit = newValue }
  }
  @inline(__always) package var idtrLimit: UInt32 {
    get { unsafe s.pointee.idtrLimit }
    nonmutating set { unsafe s.pointee.idtrLimit = newValue }
  }
  @inline(__always) package var cr0: UInt64 {
    get { unsafe s.pointee.cr0 }
    nonmutating set { unsafe s.pointee.cr0 = newValue }
  }
  @inline(__always) package var cr2: UInt64 {
    get { unsafe s.pointee.cr2 }
    nonmutating set { unsafe s.pointee.cr2 = newValue }
  }
  @inline(__always) package var cr3: UInt64 {
    get { unsafe s.pointee.cr3 }
    nonmutating set { unsafe s.pointee.cr3 = newValue }
  }
  @inline(__always) package var cr4: UInt64 {
    get { unsafe s.pointee.cr4 }
    nonmutating set { unsafe s.pointee.cr4 = newValue }
  }
  @inline(__always) package var efer: UInt64 {
    get { unsafe s.pointee.efer }
    nonmutating set { unsafe s.pointee.efer = newValue }
  }
  @inline(__always) package var xcr0: UInt64 {
    get { unsafe s.pointee.xcr0 }
    nonmutating set { unsafe s.pointee.xcr0 = newValue }
  }
  @inline(__always) package var xss: UInt64 {
    get { unsafe s.pointee.xss }
    nonmutating set { unsafe s.pointee.xss = newValue }
  }
  @inline(__always) package var dr6: UInt64 {
    get { unsafe s.pointee.dr6 }
    nonmutating set { unsafe s.pointee.dr6 = newValue }
  }
  @inline(__always) package var dr7: UInt64 {
    get { unsafe s.pointee.dr7 }
    nonmutating set { unsafe s.pointee.dr7 = newValue }
  }
  @inline(__always) package var star: UInt64 {
    get { unsafe s.pointee.star }
    nonmutating set { unsafe s.pointee.star = newValue }
  }
  @inline(__always) package var lstar: UInt64 {
    get { unsafe s.pointee.lstar }
    nonmutating set { unsafe s.pointee.lstar = newValue }
  }
  @inline(__always) package var cstar: UInt64 {
    get { unsafe s.pointee.cstar }
    nonmutating set { unsafe s.pointee.cstar = newValue }
  }
  @inline(__always) package var sfmask: UInt64 {
    get { unsafe s.pointee.sfmask }
    nonmutating set { unsafe s.pointee.sfmask = newValue }
  }
  @inline(__always) package var kernelGSBase: UInt64 {
    get { unsafe s.pointee.kernelGSBase }
    nonmutating set { unsafe s.pointee.kernelGSBase = newValue }
  }
  @inline(__always) package var sysenterCS: UInt64 {
    get { unsafe s.pointee.sysenterCS }
    nonmutating set { unsafe s.pointee.sysenterCS = newValue }
  }
  @inline(__always) package var sysenterESP: UInt64 {
    get { unsafe s.pointee.sysenterESP }
    nonmutating set { unsafe s.pointee.sysenterESP = newValue }
  }
  @inline(__always) package var sysenterEIP: UInt64 {
    get { unsafe s.pointee.sysenterEIP }
    nonmutating set { unsafe s.pointee.sysenterEIP = newValue }
  }
  @inline(__always) package var tscOffset: UInt64 {
    get { unsafe s.pointee.tscOffset }
    nonmutating set { unsafe s.pointee.tscOffset = newValue }
  }
  @inline(__always) package var tscAux: UInt64 {
    get { unsafe s.pointee.tscAux }
    nonmutating set { unsafe s.pointee.tscAux = newValue }
  }
  @inline(__always) package var tscAdjust: UInt64 {
    get { unsafe s.pointee.tscAdjust }
    nonmutating set { unsafe s.pointee.tscAdjust = newValue }
  }
  @inline(__always) package var faultVector: UInt8 {
    get { unsafe s.pointee.faultVector }
    nonmutating set { unsafe s.pointee.faultVector = newValue }
  }
  @inline(__always) package var faultHasCode: UInt8 {
    get { unsafe s.pointee.faultHasCode }
    nonmutating set { unsafe s.pointee.faultHasCode = newValue }
  }
  @inline(__always) package var faultIsTrap: UInt8 {
    get { unsafe s.pointee.faultIsTrap }
    nonmutating set { unsafe s.pointee.faultIsTrap = newValue }
  }
  @inline(__always) package var activity: UInt8 {
    get { unsafe s.pointee.activity }
    nonmutating set { unsafe s.pointee.activity = newValue }
  }
  @inline(__always) package var faultCode: UInt32 {
    get { unsafe s.pointee.faultCode }
    nonmutating set { unsafe s.pointee.faultCode = newValue }
  }
  @inline(__always) package var pendingDebug: UInt64 {
    get { unsafe s.pointee.pendingDebug }
    nonmutating set { unsafe s.pointee.pendingDebug = newValue }
  }
  @inline(__always) package var instructions: UInt64 {
    get { unsafe s.pointee.instructions }
    nonmutating set { unsafe s.pointee.instructions = newValue }
  }
  @inline(__always) package var physicalMask: UInt64 {
    get { unsafe s.pointee.physicalMask }
    nonmutating set { unsafe s.pointee.physicalMask = newValue }
  }
  @inline(__always) package var a20Mask: UInt64 {
    get { unsafe s.pointee.a20Mask }
    nonmutating set { unsafe s.pointee.a20Mask = newValue }
  }
  @inline(__always) package var tlbGeneration: UInt64 {
    get { unsafe s.pointee.tlbGeneration }
    nonmutating set { unsafe s.pointee.tlbGeneration = newValue }
  }
  @inline(__always) package var jumpGeneration: UInt64 {
    get { unsafe s.pointee.jumpGeneration }
    nonmutating set { unsafe s.pointee.jumpGeneration = newValue }
  }
  @inline(__always) package var coreFeatures: UInt64 {
    get { unsafe s.pointee.coreFeatures }
    nonmutating set { unsafe s.pointee.coreFeatures = newValue }
  }

  // MARK: - General registers

  @inline(__always) private var registers: UnsafeMutablePointer<UInt64> {
    unsafe UnsafeMutableRawPointer(s).assumingMemoryBound(to: UInt64.self)
  }
  /// Register numbers 16 and 17 read as 0 and as the next instruction's address.
  @inline(__always) package func r64(_ n: UInt8) -> UInt64 { unsafe registers[Int(n)] }
  @inline(__always) package func r32(_ n: UInt8) -> UInt32 {
    UInt32(truncatingIfNeeded: unsafe registers[Int(n)])
  }
  @inline(__always) package func r16(_ n: UInt8) -> UInt16 {
    UInt16(truncatingIfNeeded: unsafe registers[Int(n)])
  }
  @inline(__always) package func set64(_ n: UInt8, _ value: UInt64) {
    unsafe registers[Int(n)] = value
  }
  @inline(__always) package func set32(_ n: UInt8, _ value: UInt32) {
    unsafe registers[Int(n)] = UInt64(value)
  }
  @inline(__always) package func set16(_ n: UInt8, _ value: UInt16) {
    unsafe UnsafeMutableRawPointer(registers + Int(n)).storeBytes(of: value, as: UInt16.self)
  }
  /// Byte registers: without REX, 4 to 7 are AH CH DH BH.
  @inline(__always) func r8(_ n: UInt8, rex: Bool) -> UInt8 {
    let high = !rex && n >= 4 && n < 8
    let offset = high ? Int(n &- 4) &* 8 &+ 1 : Int(n) &* 8
    return unsafe UnsafeRawPointer(registers).load(fromByteOffset: offset, as: UInt8.self)
  }
  @inline(__always) func set8(_ n: UInt8, rex: Bool, _ value: UInt8) {
    let high = !rex && n >= 4 && n < 8
    let offset = high ? Int(n &- 4) &* 8 &+ 1 : Int(n) &* 8
    unsafe UnsafeMutableRawPointer(registers).storeBytes(
      of: value, toByteOffset: offset, as: UInt8.self)
  }
  /// A register of `size` bytes, zero-extended.
  @inline(__always) func register(_ n: UInt8, size: UInt8, rex: Bool) -> UInt64 {
    switch size {
    case 1: UInt64(r8(n, rex: rex))
    case 2: UInt64(r16(n))
    case 4: UInt64(r32(n))
    default: r64(n)
    }
  }
  @inline(__always) func setRegister(_ n: UInt8, size: UInt8, rex: Bool, _ value: UInt64) {
    switch size {
    case 1: set8(n, rex: rex, UInt8(truncatingIfNeeded: value))
    case 2: set16(n, UInt16(truncatingIfNeeded: value))
    case 4: set32(n, UInt32(truncatingIfNeeded: value))
    default: set64(n, value)
    }
  }

  @inline(__always) var flagsPointer: UnsafeMutablePointer<UInt16> {
    unsafe UnsafeMutableRawPointer(s).advanced(by: 144).assumingMemoryBound(to: UInt16.self)
  }

  // MARK: - Arrays in the state

  @inline(__always) func window(_ n: UInt8) -> UnsafeMutablePointer<X86Window> {
    unsafe UnsafeMutableRawPointer(s).advanced(by: Core.windowOffset)
      .assumingMemoryBound(to: X86Window.self) + Int(n)
  }
  /// ES CS SS DS FS GS LDTR TR.
  @inline(__always) func segment(_ n: UInt8) -> X86Segment {
    unsafe (UnsafeMutableRawPointer(s).advanced(by: Core.segmentOffset)
      .assumingMemoryBound(to: X86Segment.self))[Int(n & 7)]
  }
  @inline(__always) func setSegmentRaw(_ n: UInt8, _ value: X86Segment) {
    unsafe (UnsafeMutableRawPointer(s).advanced(by: Core.segmentOffset)
      .assumingMemoryBound(to: X86Segment.self))[Int(n & 7)] = value
  }
  func debugAddress(_ n: Int) -> UInt64 {
    unsafe (UnsafeMutableRawPointer(s).advanced(by: Core.debugOffset)
      .assumingMemoryBound(to: UInt64.self))[n & 3]
  }
  func setDebugAddress(_ n: Int, _ value: UInt64) {
    unsafe (UnsafeMutableRawPointer(s).advanced(by: Core.debugOffset)
      .assumingMemoryBound(to: UInt64.self))[n & 3] = value
  }
  func pageDirectoryPointer(_ n: Int) -> UInt64 {
    unsafe (UnsafeMutableRawPointer(s).advanced(by: Core.pdpteOffset)
      .assumingMemoryBound(to: UInt64.self))[n & 3]
  }
  func setPageDirectoryPointer(_ n: Int, _ value: UInt64) {
    unsafe (UnsafeMutableRawPointer(s).advanced(by: Core.pdpteOffset)
      .assumingMemoryBound(to: UInt64.self))[n & 3] = value
  }

  // Byte offsets in X86State, from CX86.h.
  static var windowOffset: Int { Int(x86OffsetWindow) }
  static var segmentOffset: Int { Int(x86OffsetSegment) }
  static var debugOffset: Int { Int(x86OffsetDR) }
  static var pdpteOffset: Int { Int(x86OffsetPDPTE) }
}
