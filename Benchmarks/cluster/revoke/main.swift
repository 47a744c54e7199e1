import CPU
import DeviceModel
import Glibc
import Guests
import Host
import Shm
import Synchronization
import Translator

// What it costs to take a page from a vCPU of the software CPU that uses it at that moment: benchmark-revoke [NUMBER] [json].
//
// The vCPU counts in a page, without an exit. Another thread takes the right to write, or all rights, lets the vCPU have them back when it asks, waits
// until it counts again, and so on: wall-clock microseconds of the call that returns when the vCPU no longer uses the page. Beside it: a word that one
// thread writes and another, which spins, answers (what the host's processors need for that), and a page that no vCPU uses.

let number = CommandLine.arguments.dropFirst().compactMap { Int($0) }.first ?? 2000
let isJSON = CommandLine.arguments.contains("json")
let counter: UInt64 = 0x30_0000
let unused: UInt64 = 0x40_0000

/// Gives every right at once.
final class Generous: PageRightsPolicy {
  private let memory: GuestMemory
  init(_ memory: GuestMemory) { self.memory = memory }
  func acquire(page: GuestAddress, _ right: PageRight) -> PageAccess {
    memory.grant(page, right)
    return .granted
  }
}

let memory = GuestMemory()
let ram = try RAMBlock(name: "ram", size: 8 << 20)
memory.setSlots([MemorySlot(guest: GuestAddress(0), size: UInt64(ram.size), block: ram)])
let vm = try TCGAccelerator(cacheBytes: 4 << 20).makeVM(memory: memory, cpuid: GuestRun.cpuid)
let policy = Generous(memory)
memory.setRightsPolicy(policy)
let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: NoDevices())
// again: inc dword [0x300000]; jmp again
memory.write(GuestAddress(0x1000), [0xFF, 0x05, 0x00, 0x00, 0x30, 0x00, 0xEB, 0xF8])
var state = CPUState.reset(signature: 0)
state.cr0 = 0x11
state.cs = SegmentRegister(selector: 8, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC09B)
let data = SegmentRegister(selector: 16, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
(state.ss, state.ds, state.es, state.fs, state.gs) = (data, data, data, data, data)
state.rip = 0x1000
try vcpu.writeState(state)
let isOver = Atomic<Bool>(false)
let thread = try HostThread(name: "vcpu") {
  while !isOver.load(ordering: .acquiring) { _ = vcpu.run() }
}
let ping = Atomic<Int>(0)
let pong = Atomic<Int>(0)

func count() -> UInt32 { ram.base.load(fromByteOffset: Int(counter), as: UInt32.self) }
func goesOn() {
  let before = count()
  while count() == before { sched_yield() }
}
func microseconds(_ body: () -> Void) -> Double {
  let start = HostClock.monotonic
  body()
  return Double(HostClock.monotonic - start) / 1000
}
var results: [(String, [Double])] = [
  ("take the right to write", []), ("take all rights", []), ("a page not in use", []),
]
for _ in 0..<number {
  goesOn()
  results[0].1.append(microseconds { memory.revoke(GuestAddress(counter), .write) })
  goesOn()
  results[1].1.append(microseconds { memory.revoke(GuestAddress(counter), .read) })
  results[2].1.append(microseconds { memory.revoke(GuestAddress(unused), .read) })
}
isOver.store(true, ordering: .releasing)
vcpu.requestExit()
thread.join()
// The same processors without us.
let echo = try HostThread(name: "echo") {
  for turn in 1...number {
    while ping.load(ordering: .acquiring) != turn { sched_yield() }
    pong.store(turn, ordering: .releasing)
  }
}
var raw: [Double] = []
for turn in 1...number {
  raw.append(
    microseconds {
      ping.store(turn, ordering: .releasing)
      while pong.load(ordering: .acquiring) != turn { sched_yield() }
    })
}
echo.join()
results.append(("a word there and back", raw))
let lines = results.map { name, times in
  let sorted = times.sorted()
  let (low, middle, high) = (sorted[0], sorted[number / 2], sorted[number * 9 / 10])
  return isJSON
    ? "\"\(name)\": {\"min\": \(low), \"median\": \(middle), \"p90\": \(high)}"
    : "\(name): min \(low), median \(middle), p90 \(high) us"
}
print(isJSON ? "{" + lines.joined(separator: ", ") + "}" : lines.joined(separator: "\n"))
