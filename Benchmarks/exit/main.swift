import CPU
import DeviceModel
import Glibc
import Host
import KVM
import Shm
import Support
import Synchronization

// What a port write of a guest costs under KVM: benchmark-exit [GOLIATH [QEMU [NUMBER]]].
//
// A firmware of a few instructions writes a port that nobody has, a given number of times. Each program runs it with a small and with a
// large number, in turn; the difference, divided, is the cost of one write without start and end. Medians of several rounds.

let small: UInt32 = 2_000
let large =
  small + (CommandLine.arguments.count > 3 ? UInt32(CommandLine.arguments[3]) ?? 0 : 100_000)
let rounds = 5

/// 64 KiB, to be mapped below 4 GiB and below 1 MiB: the loop, then isa-debug-exit.
func firmware(_ count: UInt32) -> [UInt8] {
  var code: [UInt8] = [0x66, 0xB9]  // mov ecx, count
  code += (0..<4).map { UInt8(truncatingIfNeeded: count >> UInt32(8 * $0)) }
  code += [0xE6, 0xED]  // again: out 0xED, al
  code += [0x66, 0x49, 0x75, 0xFA]  // dec ecx; jnz again
  code += [0xBA, 0x01, 0x05, 0xEE]  // mov dx, 0x501; out dx, al
  code += [0xF4, 0xEB, 0xFD]  // hlt; jmp to it
  var image = [UInt8](repeating: 0xF4, count: 65536)
  image.replaceSubrange(0..<code.count, with: code)
  image.replaceSubrange(0xFFF0..<0xFFF5, with: [0xEA, 0x00, 0x00, 0x00, 0xF0])  // jmp F000:0000
  return image
}

/// Nobody answers; a write to port 0x501 ends the run.
final class Nobody: VCPUHost {
  let vcpu = Mutex<(any VCPU)?>(nil)
  let isDone = Atomic<Bool>(false)
  func readPort(_ port: UInt16, width: Int) -> UInt32 { ~0 }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {
    guard port == 0x501 else { return }
    isDone.store(true, ordering: .releasing)
    vcpu.withLock { $0 }?.requestExit()
  }
  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 { ~0 }
  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {}
  func readMSR(_ index: UInt32) -> UInt64? { nil }
  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }
  var taskPriority: UInt8 {
    get { 0 }
    set { _ = newValue }
  }
  var isA20Enabled: Bool { true }
}

/// Wall-clock and CPU time in seconds.
struct Cost {
  var wall: Double
  var cpu: Double
}

func processCPUSeconds() -> Double {
  var time = timespec()
  // SAFETY: fills a local.
  _ = unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// The KVM module alone, in this process.
func runModule(_ count: UInt32) throws -> Cost {
  let memory = GuestMemory()
  let block = try RAMBlock(name: "firmware", size: 65536)
  memory.setSlots([
    MemorySlot(guest: GuestAddress(0xF_0000), size: 65536, block: block, isReadOnly: true),
    MemorySlot(guest: GuestAddress(0xFFFF_0000), size: 65536, block: block, isReadOnly: true),
  ])
  memory.write(GuestAddress(0xFFFF_0000), firmware(count), toROM: true)
  let vm = try KVMAccelerator(probe: false).makeVM(
    memory: memory,
    cpuid: CPUIDTable([CPUIDTable.Entry(0, eax: 1), CPUIDTable.Entry(1, edx: 0x0781_A13F)]))
  let host = Nobody()
  let vcpu = try vm.makeVCPU(id: VCPUID(0), apicID: APICID(0), host: host)
  host.vcpu.withLock { $0 = vcpu }
  defer { host.vcpu.withLock { $0 = nil } }
  let wall = HostClock.monotonic
  let cpu = processCPUSeconds()
  while !host.isDone.load(ordering: .acquiring) {
    if case .failure(let reason) = vcpu.run() { throw AcceleratorError(.failed, reason) }
  }
  return Cost(wall: Double(HostClock.monotonic - wall) / 1e9, cpu: processCPUSeconds() - cpu)
}

/// A whole VMM, from its start to its end.
func runProgram(_ arguments: [String], _ count: UInt32) throws -> Cost {
  let path = "/tmp/benchmark-exit-\(getpid()).bin"
  let file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC)
  _ = try file.write(firmware(count))
  defer { unsafe unlink(path) }  // SAFETY: the string lives through the call.
  let wall = HostClock.monotonic
  let cpu = Process.childrenCPUSeconds
  let result = try Process.output(
    arguments + [
      "-nodefaults", "-display", "none", "-m", "16", "-bios", path, "-device",
      "isa-debug-exit,iobase=0x501,iosize=1",
    ])
  guard result.status & 1 == 1 else {
    throw AcceleratorError(.failed, "\(arguments[0]) ended with \(result.status): \(result.text)")
  }
  return Cost(
    wall: Double(HostClock.monotonic - wall) / 1e9, cpu: Process.childrenCPUSeconds - cpu)
}

func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

struct Contestant {
  let name: String
  let run: (UInt32) throws -> Cost
  var results: [Cost] = []
}

let arguments = Array(CommandLine.arguments.dropFirst())
let goliath = arguments.first ?? Goliath.path
let qemu = arguments.count > 1 ? arguments[1] : "qemu-system-x86_64"
var contestants = [
  Contestant(name: "KVM module alone", run: runModule),
  Contestant(name: "goliath") {
    try runProgram([goliath, "-accel", "kvm,probe=off", "-cpu", "qemu64"], $0)
  },
  Contestant(name: "qemu") {
    try runProgram([qemu, "-accel", "kvm,kernel-irqchip=off", "-cpu", "qemu64"], $0)
  },
]
for _ in 0..<rounds {
  for index in contestants.indices {
    do {
      let few = try contestants[index].run(small)
      let many = try contestants[index].run(large)
      let count = Double(large - small)
      contestants[index].results.append(
        Cost(wall: (many.wall - few.wall) / count, cpu: (many.cpu - few.cpu) / count))
    } catch {
      print("\(contestants[index].name): \(error)")
    }
  }
}
print("port write under KVM, round trip in microseconds (median of \(rounds))")
for contestant in contestants where !contestant.results.isEmpty {
  let wall = (median(contestant.results.map { $0.wall }) * 1e8).rounded() / 100
  let cpu = (median(contestant.results.map { $0.cpu }) * 1e8).rounded() / 100
  print("  \(contestant.name): \(wall) wall clock, \(cpu) CPU")
}
