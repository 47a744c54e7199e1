import CPU
import Cluster
import ClusterBenchmarks
import DeviceModel
import Glibc
import Guests
import Host
import KVM
import Shm

// What a page of another node costs a guest on KVM, beside a raw round trip of 4 KiB on the same kind of socket:
// benchmark-kvm-pages [unix|tcp [NUMBER]].
//
// Two processes with coherent memory of 256 MiB, all of it node 0's at first. A guest on node 1 reads or writes a word in each of NUMBER pages, one at a
// time (no runs): fault, userfaultfd, request, page, entry. Beside it: the same without a guest (`acquire`), and faults for pages that are
// here already. Rounds take turns with the raw ones; microseconds of wall-clock a page, means of rounds. The guest is flat 64-bit
// code without an operating system, so it runs on any /dev/kvm.

let kind = CommandLine.arguments.count > 1 ? CommandLine.arguments[1] : "unix"
let number = CommandLine.arguments.count > 2 ? Int(CommandLine.arguments[2]) ?? 500 : 500
let rounds = 9
let page = 4096
let size = 256 << 20

func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

/// Memory that the two nodes have in common.
struct SharedMemory {
  let memory = GuestMemory()
  let coherent: CoherentMemory
  init(_ transport: LinkTransport) throws {
    let block = try RAMBlock(name: "ram", size: size, backing: .memfd)
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: UInt64(size), block: block)])
    // The host's pages are there on both sides, and none is zero: what that costs at first is not the protocol's.
    for place in stride(from: 0, to: size, by: page) {
      block.base.storeBytes(of: UInt64(place + 1), toByteOffset: place, as: UInt64.self)
    }
    var tuning = CoherentMemory.Tuning()
    tuning.longestRun = 1
    coherent = try CoherentMemory(
      memory: memory,
      regions: [CoherentMemory.Region(guest: GuestAddress(0), size: UInt64(size), block: block)],
      transport: transport, homes: HomeMap(.node0, nodeCount: 2, bytes: UInt64(size)),
      tuning: tuning)
    try coherent.start()
  }
}

var processes = TwoProcesses(kind)
let raw = try processes.connectRaw("raw")
let ctl = try processes.connect("ctl")
let mem = try processes.connect("mem")
let child = processes.fork([raw, ctl, mem])
if child == 0 {
  let transport = LinkTransport(node: node(0), nodeCount: 2)
  let shared = try SharedMemory(transport)
  try TwoProcesses.attach(transport, ctl: ctl.child, mem: mem.child, to: node(1))
  withExtendedLifetime(shared) { RawTrips(raw.child).serve() }
  exit(0)
}

let transport = LinkTransport(node: node(1), nodeCount: 2)
let shared = try SharedMemory(transport)
try TwoProcesses.attach(transport, ctl: ctl.parent, mem: mem.parent, to: node(0))
let memory = shared.memory
let vm = try KVMAccelerator(probe: false).makeVM(
  memory: memory, cpuid: GuestRun.cpuid, coherent: shared.coherent, vcpus: 1)
let host = NoDevices()
let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: host)

// Identity-mapped by pages of 2 MiB.
memory.store(GuestAddress(0x10000), UInt64(0x11027))
memory.store(GuestAddress(0x11000), UInt64(0x12027))
for n in UInt64(0)..<UInt64(size >> 21) {
  memory.store(GuestAddress(0x12000 + n * 8), n << 21 | 0xE7)
}
/// mov [rdi], rcx or mov rax, [rdi]; add rdi, 4096; dec rcx; jnz; hlt.
func program(_ access: [UInt8]) -> [UInt8] {
  access + [0x48, 0x81, 0xC7, 0, 0x10, 0, 0, 0x48, 0xFF, 0xC9, 0x75, 0xF1, 0xF4]
}
let writer: UInt64 = 0x20000
let reader: UInt64 = 0x21000
memory.write(GuestAddress(writer), program([0x48, 0x89, 0x0F]))
memory.write(GuestAddress(reader), program([0x48, 0x8B, 0x07]))

func guest(_ program: UInt64, _ start: UInt64) throws {
  var state = CPUState.reset(signature: 0)
  state.cr0 = 0x8005_0031
  state.cr3 = 0x10000
  state.cr4 = 0x6A0
  state.efer = 0xD01
  state.cs = SegmentRegister(selector: 8, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA09B)
  let data = SegmentRegister(selector: 16, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
  (state.ss, state.ds, state.es, state.fs, state.gs) = (data, data, data, data, data)
  state.idtr = DescriptorTableRegister(base: 0, limit: 0)
  state.rip = program
  state.registers[1] = UInt64(number)
  state.registers[7] = start
  try vcpu.writeState(state)
  while true {
    let exit = vcpu.run()
    if case .interrupted = exit { continue }
    guard exit == .halt else {
      print("the guest came to \(exit)")
      _exit(1)
    }
    return
  }
}

let trips = RawTrips(raw.parent)

/// Pages are used once.
nonisolated(unsafe) var next: UInt64 = 4 << 20
func take() -> UInt64 {
  let start = next
  next += UInt64(number * page)
  if next > UInt64(size) {
    print("NUMBER is too large: \(rounds * 5) rounds of it need \(size >> 20) MiB")
    _exit(1)
  }
  return start
}

nonisolated(unsafe) var figures = Figures()
func measure(_ name: String, _ body: () throws -> Void) rethrows {
  let start = HostClock.monotonic
  try body()
  figures.add(name, [Double(HostClock.monotonic - start) / 1000 / Double(number)])
}
func acquire(_ start: UInt64, _ right: PageRight) {
  for n in 0..<number {
    let address = GuestAddress(start + UInt64(n * page))
    guard memory.acquire(address, right) == .granted else { _exit(1) }
    memory.settle(address)
  }
}

let names = [
  "raw 4 KiB", "page to read, no guest", "page to write, no guest", "fault of a page that is here",
  "page to read, guest", "page to write, guest",
]
/// What the thread that answers the guest's faults waits for a page.
nonisolated(unsafe) var waits: [Double] = []
for _ in 0..<rounds {
  measure(names[0]) {
    for _ in 0..<number { trips.ask(page + 32) }
  }
  measure(names[1]) { acquire(take(), .read) }
  let here = take()
  measure(names[2]) { acquire(here, .write) }
  try measure(names[3]) { try guest(writer, here) }
  let before = shared.coherent.statistics
  try measure(names[4]) { try guest(reader, take()) }
  let after = shared.coherent.statistics
  waits.append(
    Double(after.readNanoseconds - before.readNanoseconds) / 1000
      / Double(max(after.readFaults - before.readFaults, 1)))
  try measure(names[5]) { try guest(writer, take()) }
}

print("\(kind), \(number) pages, \(rounds) rounds: microseconds a page")
for name in names { print(figures.line(name)) }
print("  of that, from request to page: least \(Figures.text(waits.min() ?? 0))")
for name in names.suffix(2) {
  let least = figures.least(name) - figures.least(names[0])
  let median = figures.median(name) - figures.median(names[0])
  print("  \(name), above raw: least \(Figures.text(least)), median \(Figures.text(median))")
}
fflush(nil)
processes.end(child)
_exit(0)
