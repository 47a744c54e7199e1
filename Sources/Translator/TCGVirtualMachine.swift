package import CPU
import CX86
package import DeviceModel
import Glibc
import Host
package import Shm
import Synchronization

/// The software CPU's side of a machine: its vCPUs, their clock, and the news between them about code pages.
package final class TCGVirtualMachine: VirtualMachine {
  private let memory: GuestMemory
  private let cpuid: CPUIDTable
  private let cacheBytes: Int
  private let tuning: TranslatorTuning
  package var tscFrequency: UInt64 { HostTSC.frequency }
  /// Guest TSC minus host TSC, for all vCPUs.
  private let tscOffset: Atomic<UInt64>
  private let vcpus = Mutex<[TCGVCPU]>([])
  let count = VCPUCount()
  /// `singlestep on` of a monitor.
  private let singleStepping = Atomic<Bool>(false)
  /// How many vCPUs are marking a page, by a hash of the page.
  private let marks: MarkTable
  /// For accesses that are locked and not one instruction of the host.
  let splitLock: SplitLock
  /// What is shared with the software CPUs of other processes; nil: the machine has only this one.
  private let engines: SharedEngines?
  /// The mailboxes of vCPUs that this process does not run.
  private let elsewhere: Mutex<[RemoteMailbox]>

  private let turns: VCPUTurns?

  init(
    memory: GuestMemory, cpuid: CPUIDTable, cacheBytes: Int, tuning: TranslatorTuning,
    takesTurns: Bool = false
  ) {
    turns = takesTurns ? VCPUTurns() : nil
    self.memory = memory
    self.cpuid = cpuid
    self.cacheBytes = cacheBytes
    self.tuning = tuning
    tscOffset = Atomic(0 &- x86_tsc())
    let engines = memory.engines
    self.engines = engines
    marks = MarkTable(engines)
    splitLock = SplitLock(engines)
    elsewhere = Mutex(
      (0..<(engines?.vcpuCount ?? 0)).compactMap { number in
        unsafe engines?.mailbox(number).map {
          unsafe RemoteMailbox(
            vcpu: number, mailbox: Mailbox($0.assumingMemoryBound(to: X86Mailbox.self)))
        }
      })
    memory.observeSlots { [weak self] _ in self?.invalidateEverything() }
    memory.observeRevocations { [weak self] page, count, right in
      self?.drop(page, count, right)
    }
    memory.observeCodeWrites { [weak self] address, length in
      self?.codeWasWritten(address, length)
    }
  }

  package func makeVCPU(
    id: VCPUID, apicID: APICID, host: any VCPUHost
  ) throws(AcceleratorError) -> any VCPU {
    let shared = engines?.ownMailbox(Int(id.rawValue))
    if let engines, shared == nil {
      throw AcceleratorError(
        .failed, "vCPU \(id.rawValue) is none of the \(engines.vcpuCount) of the shared memory")
    }
    guard let blocks = BlockCache(bytes: cacheBytes), let state = StateMemory(shared: shared) else {
      throw AcceleratorError(.failed, "no memory for a vCPU's state and its cache of decoded code")
    }
    elsewhere.withLock { $0.removeAll { $0.vcpu == Int(id.rawValue) } }
    let environment = CoreEnvironment(
      memory: memory, host: host, machine: self, blocks: blocks, state: state,
      cpuid: cpuid, apicID: apicID, tuning: tuning)
    environment.index = id.rawValue
    environment.endsTurnsAtPause = turns != nil
    let vcpu = TCGVCPU(
      id: id, environment: environment, tscOffset: tscOffset.load(ordering: .relaxed), turns: turns)
    let total = vcpus.withLock { list in
      list.append(vcpu)
      return list.count
    }
    count.set(engines?.vcpuCount ?? total)
    // From here on it hears of changes; what came before is taken over with its first look.
    environment.request(.everything)
    return vcpu
  }

  package var counterOffset: UInt64? {
    get { tscOffset.load(ordering: .relaxed) }
    set {
      guard let newValue else { return }
      // What the guest has written to a vCPU's counter stays as the difference to the others.
      let change = newValue &- tscOffset.exchange(newValue, ordering: .relaxed)
      for vcpu in vcpus.withLock({ $0 }) {
        vcpu.environment.core.tscOffset = vcpu.environment.core.tscOffset &+ change
      }
    }
  }

  package var counter: UInt64? { x86_tsc() &+ tscOffset.load(ordering: .relaxed) }

  /// The text of `info jit`. The counters are those of running vCPUs, read without stopping them.
  package var statistics: String? {
    TranslationReport.text(
      vcpus.withLock({ $0 }).map { TranslationReport.VCPU($0.environment) },
      codeCacheBytes: tuning.codeCacheBytes)
  }

  // MARK: - Debugging

  /// Most guest instructions of a block now.
  var blockLimit: UInt32 {
    singleStepping.load(ordering: .relaxed) ? 1 : tuning.maximumInstructions
  }

  package var isSingleStepping: Bool {
    get { blockLimit == 1 }
    set {
      singleStepping.store(newValue, ordering: .relaxed)
      invalidateEverything()
    }
  }

  package func logChanged() { invalidateEverything() }

  // MARK: - News between vCPUs

  var hasOneVCPU: Bool { count.isOne }

  /// A page's code was overwritten by one vCPU: the others forget what they decoded from it.
  func invalidate(page: UInt64, except sender: CoreEnvironment?) {
    let news = Invalidation.code(page)
    for vcpu in vcpus.withLock({ $0 }) where vcpu.environment !== sender {
      vcpu.environment.request(news)
    }
    if engines == nil { return }
    for other in elsewhere.withLock({ $0 }) { unsafe news.post(to: other.mailbox.pointer) }
  }

  /// Whether some vCPU has set the code flag of the page, or of one with the same hash, and still waits for the others.
  func isMarking(_ page: UInt64) -> Bool {
    marks.isMarked(page)
  }

  func marking(_ page: UInt64, _ body: () -> Void) {
    marks.change(page, by: 1)
    body()
    marks.change(page, by: -1)
  }

  /// Asks all vCPUs but `sender` to forget something, and returns when none of them can use it any more: each has taken the request, or
  /// is not executing and takes it before it does.
  ///
  /// A `sender` is the vCPU of the calling thread. It counts as not executing while it waits, so that two that wait for each other
  /// both go on; what others asked of it is done before this returns. A vCPU that executes looks at its request word within one block of
  /// code, or one instruction outside blocks.
  func synchronize(
    except sender: CoreEnvironment?, _ news: Invalidation, pages: UInt64 = 1
  ) {
    if sender != nil && hasOneVCPU { return }
    var waited: [(mailbox: Mailbox, number: UInt64)] = []
    func ask(_ mailbox: Mailbox) {
      var number: UInt64 = 0
      for index in 0..<pages {
        number = unsafe news.advanced(by: index &* 4096).post(to: mailbox.pointer)
      }
      if unsafe !Invalidation.isTaken(number, mailbox.pointer) { waited.append((mailbox, number)) }
    }
    let own = vcpus.withLock { $0 }
    for vcpu in own where vcpu.environment !== sender {
      unsafe ask(Mailbox(vcpu.environment.state.mailbox))
    }
    if engines != nil {
      for other in elsewhere.withLock({ $0 }) { ask(other.mailbox) }
    }
    if waited.isEmpty { return }
    func wait() {
      for (mailbox, number) in waited {
        var rounds = 0
        while unsafe !Invalidation.isTaken(number, mailbox.pointer) {
          rounds += 1
          // Its thread may be without a CPU, perhaps for want of ours.
          if rounds < 128 {
            x86_pause()
          } else {
            unsafe x86_mailbox_wait(mailbox.pointer, number)
          }
        }
      }
    }
    // The mailboxes live as long as their vCPUs.
    withExtendedLifetime(own) {
      if let sender { sender.outside(wait) } else { wait() }
    }
  }

  /// The process that runs these vCPUs is gone: nobody waits for them any more. Any thread.
  package func abandon(_ lost: [VCPUID]) {
    let numbers = Set(lost.map { Int($0.rawValue) })
    let mailboxes = elsewhere.withLock { $0.filter { numbers.contains($0.vcpu) } }
    // SAFETY: parts of the shared object, which lives as long as this one.
    for other in mailboxes { unsafe x86_mailbox_abandon(other.mailbox.pointer) }
    for number in numbers { splitLock.release(owner: UInt32(truncatingIfNeeded: number)) }
  }

  /// Takes a right to a page away from this node: when it returns, no vCPU uses the page that way, nor does any device. `.read` takes
  /// code decoded from it too. Any thread but a vCPU's.
  package func revoke(_ page: GuestAddress, _ right: PageRight) { memory.revoke(page, right) }

  private func drop(_ page: GuestAddress, _ count: Int, _ right: PageRight) {
    let first = page.rawValue & ~0xFFF
    synchronize(
      except: nil, right == .read ? .page(first) : .writes(first), pages: UInt64(max(count, 0)))
  }

  private func invalidateEverything() {
    for vcpu in vcpus.withLock({ $0 }) {
      vcpu.environment.request(.everything)
    }
  }

  /// Someone else (a device, the monitor) wrote to pages with code.
  private func codeWasWritten(_ address: GuestAddress, _ length: Int) {
    var page = address.rawValue & ~0xFFF
    let end = address.rawValue &+ UInt64(max(length, 1))
    if end &- page > 256 * 4096 {
      invalidateEverything()
      for other in elsewhere.withLock({ $0 }) {
        unsafe Invalidation.everything.post(to: other.mailbox.pointer)
      }
      return
    }
    while page < end {
      invalidate(page: page, except: nil)
      page &+= 4096
    }
  }
}

/// Accelerator `tcg`.
package struct TCGAccelerator: Accelerator {
  package let name = "tcg"
  private let cacheBytes: Int
  private let tuning: TranslatorTuning
  private let takesTurns: Bool

  /// `cacheBytes`: how much each vCPU's cache of decoded instructions may take (`tb-size`); nil: 64 MiB, of which only what is used
  /// costs memory. `tuning`: limits and forced modes of the translator. `takesTurns`: one vCPU executes at a time (`thread=single`).
  package init(
    cacheBytes: Int? = nil, tuning: TranslatorTuning = TranslatorTuning(), takesTurns: Bool = false
  ) {
    self.takesTurns = takesTurns
    self.cacheBytes = cacheBytes ?? 64 << 20
    self.tuning = tuning
  }

  package func makeVM(
    memory: GuestMemory, cpuid: CPUIDTable
  ) throws(AcceleratorError) -> any VirtualMachine {
    TCGVirtualMachine(
      memory: memory, cpuid: cpuid, cacheBytes: cacheBytes, tuning: tuning, takesTurns: takesTurns)
  }
}

/// The host's time-stamp counter.
enum HostTSC {
  /// Ticks in a second: by CPUID where the processor or the hypervisor says, else measured for half a millisecond.
  static let frequency: UInt64 = {
    var r: (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
    func cpuid(_ leaf: UInt32) {
      unsafe withUnsafeMutableBytes(of: &r) { raw in
        // SAFETY: four words.
        if let base = unsafe raw.bindMemory(to: UInt32.self).baseAddress {
          unsafe x86_cpuid(leaf, 0, base)
        }
      }
    }
    cpuid(0)
    let highest = r.0
    if highest >= 0x15 {
      cpuid(0x15)
      if r.0 != 0 && r.1 != 0 && r.2 != 0 {
        return UInt64(r.2) &* UInt64(r.1) / UInt64(max(r.0, 1))
      }
    }
    cpuid(0x4000_0000)
    if r.0 >= 0x4000_0010 && r.0 < 0x4000_0100 {
      cpuid(0x4000_0010)
      if r.0 > 100_000 && r.0 < 20_000_000 { return UInt64(r.0) &* 1000 }
    }
    let t0 = HostClock.monotonic
    let c0 = x86_tsc()
    var t1 = t0
    while t1 &- t0 < 500_000 { t1 = HostClock.monotonic }
    let ticks = x86_tsc() &- c0
    return ticks &* 1_000_000_000 / UInt64(max(t1 &- t0, 1))
  }()
}

/// How many vCPUs a machine has. Theirs too: they ask at each store to a code page, where looking for the machine itself, which they hold
/// weakly, would cost more than the rest.
final class VCPUCount: Sendable {
  private let value = Atomic<Int>(0)

  /// Whether no other vCPU runs guest code.
  var isOne: Bool { value.load(ordering: .sequentiallyConsistent) == 1 }

  func set(_ count: Int) { value.store(count, ordering: .sequentiallyConsistent) }
}
