import CPU
import Glibc
import Guests
import KVM
import KVMNodes
import Shm
import Translator

// Runs the test guests on this host's KVM: kvm-selftest [--no-probe] [NAME…]; with --nodes those of several nodes instead. Prints a line for each, and exits with 1 when one fails.

let arguments = CommandLine.arguments.dropFirst()
if arguments.contains("--nodes") {
  var failed = false
  for result in NodeChecks.run(rounds: 200, { print("# \($0)") }) {
    print(result.complaint.map { "not ok - \(result.name): \($0)" } ?? "ok - \(result.name)")
    if result.complaint != nil { failed = true }
  }
  exit(failed ? 1 : 0)
}
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
    // As `goliath` puts the two together: what KVM cannot emulate, the software CPU does.
    let accelerator = KVMAccelerator(
      probe: false,
      makeFallback: { memory, cpuid in
        let service = EmulationService(memory: memory, cpuid: cpuid)
        return { vcpu, host in service.execute(vcpu, host) }
      })
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
