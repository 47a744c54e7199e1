import COracle
import CPU
import DeviceModel
import Glibc
import Host
import Shm
import Synchronization
import Translator

/// What both sides are compared in.
struct OracleOutcome {
  var registers: [UInt64]
  var rip: UInt64
  var flags: UInt64
  var vector: UInt64
  var error: UInt64
  var faultAddress: UInt64
  var xsave: [UInt8]
  var data: [UInt8]
  /// The code pages, when the code may write to them.
  var code: [UInt8] = []
  /// A digest of what was read from and written to the device, and in which order.
  var device: UInt64 = 0
}

/// A device that answers with a function of address and count, and keeps a digest of all accesses.
final class OracleHost: VCPUHost, @unchecked Sendable {
  // Belongs to the thread that runs the guest.
  private var accesses: UInt64 = 0
  private(set) var digest: UInt64 = 0

  func reset() {
    accesses = 0
    digest = 0
  }

  private func mix(_ values: UInt64...) {
    for value in values { digest = (digest ^ value) &* 0x9E37_79B9_7F4A_7C15 ^ digest >> 29 }
  }

  func readPort(_ port: UInt16, width: Int) -> UInt32 { 0 }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 {
    accesses &+= 1
    mix(1, address.rawValue, UInt64(width), accesses)
    return (address.rawValue &+ accesses) &* 0x9E37_79B9_7F4A_7C15 >> 3
  }
  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {
    mix(2, address.rawValue, UInt64(width), value)
  }
  func readMSR(_ index: UInt32) -> UInt64? { nil }
  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }
  var taskPriority: UInt8 = 0
  var isA20Enabled: Bool { true }
}

/// Makes a vCPU that runs for long leave.
final class OracleWatch: Sendable {
  private struct Run {
    var vcpu: (any VCPU)?
    var ticks = 0
    var limit = 60
  }
  private let run = Mutex(Run())
  static let shared = OracleWatch()

  private init() {
    let thread = try? HostThread(name: "watch") { [self] in
      while true {
        usleep(5000)
        let late = run.withLock { run -> (any VCPU)? in
          run.ticks += 1
          if run.vcpu == nil || run.ticks < run.limit { return nil }
          run.ticks = 0
          return run.vcpu
        }
        late?.requestExit()
      }
    }
    withExtendedLifetime(thread) {}
  }

  /// Runs to an exit of its own, at most about `patience` times 0.3 seconds (when that is 1: 0.015); nil: it had to be stopped.
  func drive(_ vcpu: any VCPU, patience: Int) -> VMExit? {
    for _ in 0..<patience {
      run.withLock { $0 = Run(vcpu: vcpu, limit: patience == 1 ? 3 : 60) }
      let exit = vcpu.run()
      run.withLock { $0 = Run() }
      // A request may also come just after the run before this one.
      if exit != .interrupted { return exit }
    }
    return nil
  }
}

/// A guest in 64-bit user mode whose code and data pages lie where the native child has them. Every exception ends in a HLT of
/// its own, from which the vector is known.
final class OracleGuest {
  static let codePage: UInt64 = 0x10000
  static let devicePage: UInt64 = 0x3000_0000
  /// Linear addresses of pages that the host has nothing like: a device, the code's first page once more and writable, the data's first
  /// page, and its second one read-only.
  static let extraPages: [UInt64] = (0..<4).map { 0x4018_0000 + $0 * 4096 }
  static let dataPage: UInt64 = 0x20000
  static let endless = "runs without end"
  static let handlers: UInt64 = 0x9000
  static let stackTop: UInt64 = 0xC000

  let memory = GuestMemory()
  let block: RAMBlock
  let machine: any VirtualMachine
  let vcpu: any VCPU
  private(set) var base = CPUState()
  private let host = OracleHost()
  private let hasWritableCode: Bool

  /// `writableCode`: the code may change itself. `extraPages`: the pages of that name are there.
  init(
    tuning: TranslatorTuning = .interpreter, writableCode: Bool = false, extraPages: Bool = false
  ) throws {
    hasWritableCode = writableCode
    block = try RAMBlock(name: "oracle", size: 2 << 20)
    memory.setSlots([
      MemorySlot(guest: GuestAddress(0), size: 2 << 20, block: block, offset: 0, isReadOnly: false)
    ])
    let capabilities = CPUCapabilities(tcgOn: .ofThisHost)
    let cpuid = try CPUModel.parse("max").cpuidTable(capabilities, topology: CPUTopology()).table
    machine = try TCGAccelerator(tuning: tuning).makeVM(memory: memory, cpuid: cpuid)
    vcpu = try machine.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: host)
    buildTables()
    if extraPages { buildExtraPages() }
    buildState(hasAVX: FeatureSet(table: cpuid)["avx"])
  }

  func store(_ value: UInt64, at address: UInt64) {
    _ = memory.store(GuestAddress(address), value)
  }

  private func buildTables() {
    let present: UInt64 = 1
    let write: UInt64 = 2
    let user: UInt64 = 4
    let noExecute: UInt64 = 1 << 63
    store(0x2000 | present | write | user, at: 0x1000)
    store(0x5000 | present | write | user, at: 0x2000)
    store(0x3000 | present | write | user, at: 0x2008)
    // The kernel's 2 MiB.
    store(0 | present | write | 0x80, at: 0x5000)
    store(0x4000 | present | write | user, at: 0x3000)
    let rights = present | user | (hasWritableCode ? write : 0)
    for page in 0..<UInt64(ORACLE_CODE_PAGES) {
      store((Self.codePage + page * 4096) | rights, at: 0x4000 + page * 8)
    }
    let pages = UInt64(ORACLE_DATA_PAGES)
    for page in 0..<pages {
      let last = page == pages - 1
      store(
        (Self.dataPage + page * 4096) | present | user | (last ? 0 : write) | noExecute,
        at: 0x4000 + (0x100 + page) * 8)
    }
    let descriptors: [UInt64] = [
      0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_8000_0067, 0,
      0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0,
    ]
    for (n, value) in descriptors.enumerated() { store(value, at: 0x6000 + UInt64(n) * 8) }
    store(Self.stackTop, at: 0x8004)
    // No ports: the map lies behind the limit.
    store(0x68 << 48, at: 0x8060)
    for vector in 0..<UInt64(256) {
      let handler = Self.handlers + vector * 16
      let type: UInt64 = vector == 3 ? 0xEE00 : 0x8E00
      store(
        handler & 0xFFFF | 0x08 << 16 | type << 32 | (handler >> 16 & 0xFFFF) << 48,
        at: 0x7000 + vector * 16)
      store(handler >> 32, at: 0x7008 + vector * 16)
      _ = memory.write(GuestAddress(handler), [0xF4])
    }
  }

  /// Every exception starts at the top of the same stack, whatever its privilege level.
  func useOneStack() {
    store(Self.stackTop, at: 0x8024)
    for vector in UInt64(0)..<256 {
      let gate: UInt64 = memory.load(GuestAddress(0x7000 + vector * 16)) ?? 0
      store(gate | 1 << 32, at: 0x7000 + vector * 16)
    }
  }

  private func buildExtraPages() {
    let targets: [UInt64] = [
      Self.devicePage | 1 << 63 | 7, Self.codePage | 7, Self.dataPage | 1 << 63 | 7,
      (Self.dataPage + 4096) | 1 << 63 | 5,
    ]
    for (n, entry) in targets.enumerated() { store(entry, at: 0x4000 + (0x180 + UInt64(n)) * 8) }
  }

  private func buildState(hasAVX: Bool) {
    base.cr0 = 0x8005_0033
    base.cr3 = 0x1000
    base.cr4 = hasAVX ? 0x40620 : 0x620
    base.efer = 0xD01
    base.xcr0 = hasAVX ? 7 : 3
    // Selectors as Linux has them in user space.
    base.cs = SegmentRegister(selector: 0x33, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA0FB)
    base.ss = SegmentRegister(selector: 0x2B, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC0F3)
    let null = SegmentRegister(selector: 0, base: 0, limit: 0, attributes: 0)
    base.ds = null
    base.es = null
    base.fs = null
    base.gs = null
    base.tr = SegmentRegister(selector: 0x18, base: 0x8000, limit: 0x67, attributes: 0x8B)
    base.gdtr = DescriptorTableRegister(base: 0x6000, limit: 63)
    base.idtr = DescriptorTableRegister(base: 0x7000, limit: 4095)
  }

  /// Runs `code` from `offset` in the code pages on. Nil: the vCPU stopped in an unexpected way, said in the string.
  func run(
    code: [UInt8], offset: Int = 0, registers: [UInt64], flags: UInt64, xsave: [UInt8],
    data: [UInt8], patience: Int = 20
  ) throws -> (outcome: OracleOutcome?, problem: String) {
    let writable = Int(ORACLE_DATA_BYTES) - 4096
    _ = memory.write(GuestAddress(Self.dataPage), data)
    var space = [UInt8](repeating: 0xCC, count: Int(ORACLE_CODE_SPACE))
    space.replaceSubrange(offset..<offset + code.count, with: code)
    _ = memory.write(GuestAddress(Self.codePage), space)
    host.reset()
    var state = base
    state.registers = registers
    state.rip = UInt64(ORACLE_CODE) + UInt64(offset)
    state.rflags = flags
    for n in xsave.indices { state.xsave[n] = xsave[n] }
    try vcpu.writeState(state)
    guard let exit = OracleWatch.shared.drive(vcpu, patience: patience) else {
      return (nil, OracleGuest.endless)
    }
    guard exit == .halt else { return (nil, "exit \(exit)") }
    let after = try vcpu.readState()
    let vector = (after.rip &- Self.handlers) / 16
    guard vector < 256 else { return (nil, "stopped at \(String(after.rip, radix: 16))") }
    var frame = after.registers[4]
    var error: UInt64 = 0
    if [8, 10, 11, 12, 13, 14, 17].contains(vector) {
      error = memory.load(GuestAddress(frame)) ?? 0
      frame += 8
    }
    var result = OracleOutcome(
      registers: after.registers, rip: memory.load(GuestAddress(frame)) ?? 0,
      flags: memory.load(GuestAddress(frame + 16)) ?? 0, vector: vector, error: error,
      faultAddress: after.cr2, xsave: Array(after.xsave.prefix(Int(ORACLE_XSAVE_BYTES))),
      data: memory.read(GuestAddress(Self.dataPage), count: writable) ?? [])
    result.registers[4] = memory.load(GuestAddress(frame + 24)) ?? 0
    result.device = host.digest
    if hasWritableCode {
      result.code =
        memory.read(GuestAddress(Self.codePage), count: Int(ORACLE_CODE_SPACE)) ?? []
    }
    return (result, "")
  }
}
