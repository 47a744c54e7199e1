import CPU
import Glibc
import Guests
import KVM
import Shm
import Support
import Testing

/// What this machine's own KVM is good for.
enum OwnKVM {
  /// Nil when it can run a stock guest, else the reason.
  static let complaint: String? = {
    do throws(AcceleratorError) {
      try KVMAccelerator.probe()
      return nil
    } catch {
      return error.message
    }
  }()
  static let isThere = access("/dev/kvm", R_OK | W_OK) == 0
  /// Without a good one, guests that need more than the poor ones have are left to the virtual host.
  static func canRun(_ program: GuestProgram) -> Bool {
    isThere && (complaint == nil || program.requirements.subtracting([.emulation]).isEmpty)
  }
}

/// Each guest on this machine's own KVM, as far as that goes.
@Suite struct GuestTests {
  @Test(
    arguments: GuestProgram.all.filter { $0.requirements.isDisjoint(with: [.emulation]) })
  func guestBehavesOnOwnKVM(_ program: GuestProgram) throws {
    guard OwnKVM.canRun(program) else {
      let lacks = program.requirements.map { $0.rawValue }.joined(separator: ", ")
      print("skipped here: \(program.name) needs \(OwnKVM.isThere ? lacks : "/dev/kvm")")
      return
    }
    let run = try GuestRun(program, on: KVMAccelerator(probe: false))
    #expect(program.complaint(about: run) == nil)
  }

  @Test func unknownInstructionGoesToTheFallback() throws {
    guard OwnKVM.isThere else { return print("skipped: no /dev/kvm") }
    let accelerator = KVMAccelerator(probe: false) { vcpu, host in
      guard var state = try? vcpu.readState() else { return false }
      let value = host.readMemory(GuestAddress(state.registers[3]), width: 4)
      state.registers[0] = UInt64(UInt32(truncatingIfNeeded: value).nonzeroBitCount)
      state.rip += 4
      return (try? vcpu.writeState(state)) != nil
    }
    let run = try GuestRun(.foreignInstruction, on: accelerator)
    #expect(GuestProgram.foreignInstruction.complaint(about: run) == nil)
  }

  @Test func unknownInstructionWithoutFallbackIsNamed() throws {
    guard OwnKVM.isThere else { return print("skipped: no /dev/kvm") }
    let run = try GuestRun(.foreignInstruction, on: KVMAccelerator(probe: false))
    guard case .failure(let reason) = run.end else {
      Issue.record("ended with \(run.end)")
      return
    }
    #expect(reason.contains("cannot emulate the instruction at 0x"))
  }

  /// The whole list on a virtual host with a KVM like hardware's, where this machine's is not.
  @Test func allGuestsBehaveOnVirtualHost() throws {
    if OwnKVM.isThere, OwnKVM.complaint == nil {
      return print("skipped: this machine's KVM is good")
    }
    guard Process.find("qemu-system-x86_64") != nil else {
      return print("skipped: qemu-system-x86 is not installed")
    }
    let program = Goliath.program("kvm-selftest")
    let result = try KVMHost.start(["--", program], seconds: 120)
    #expect(result.status == 0, "\(result.text)")
    let passed = result.text.split(separator: "\n").filter { $0.hasPrefix("ok - ") }
    #expect(passed.count == GuestProgram.all.count + 1, "\(result.text)")
  }
}
