import CPU
import Glibc
import Guests
import KVM
import Shm

// Runs the test guests on this host's KVM: kvm-selftest [--no-probe] [NAME…]. Prints a line for each, and exits with 1 when one fails.

/// POPCNT EAX, [RBX], the one instruction that the guests leave to the fallback.
@Sendable func emulatePopulationCount(_ vcpu: any VCPU, _ host: any VCPUHost) -> Bool {
  guard var state = try? vcpu.readState() else { return false }
  let value = host.readMemory(GuestAddress(state.registers[3]), width: 4)
  state.registers[0] = UInt64(UInt32(truncatingIfNeeded: value).nonzeroBitCount)
  state.rip &+= 4
  return (try? vcpu.writeState(state)) != nil
}

let arguments = CommandLine.arguments.dropFirst()
let names = arguments.filter { !$0.hasPrefix("-") }
var status: Int32 = 0
if !arguments.contains("--no-probe") {
  do {
    try KVMAccelerator.probe()
    print("ok - probe")
  } catch {
    print("not ok - probe: \(error.message)")
    status = 1
  }
}
for program in GuestProgram.all where names.isEmpty || names.contains(program.name) {
  do {
    let accelerator = KVMAccelerator(probe: false, emulateOne: emulatePopulationCount)
    let run = try GuestRun(program, on: accelerator)
    if let complaint = program.complaint(about: run) {
      print("not ok - \(program.name): \(complaint)")
      status = 1
    } else {
      print("ok - \(program.name)")
    }
  } catch {
    print("not ok - \(program.name): \(error)")
    status = 1
  }
}
exit(status)
