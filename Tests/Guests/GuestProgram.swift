/// A flat test guest: what lies in its memory, and what it must have said at the end.
package struct GuestProgram: Sendable, CustomStringConvertible {
  /// What a host may lack, and then the guest is skipped there.
  package enum Requirement: String, CaseIterable, Sendable {
    case paging32 = "32-bit paging"
    case cpuid = "a guest's own CPUID"
    case syscall = "SYSCALL that changes the privilege level"
    case softwareInterrupt = "INT from user mode"
    case exactInterrupts = "interrupts between any two instructions"
    case emulation = "an accelerator that knows every instruction on device memory"
  }

  package let name: String
  /// In the names of tests: not the bytes.
  package var description: String { name }
  package var image: [(address: UInt64, bytes: [UInt8])]
  package let transcript: String
  package var end = TestBoard.End.finished(0)
  package var vcpus = 1
  package var requirements: Set<Requirement> = []

  /// Where all guests begin, in real mode with CS 0.
  package static let origin: UInt64 = 0x1000

  init(
    _ name: String, says transcript: String, ends end: TestBoard.End = .finished(0),
    vcpus: Int = 1, needs requirements: Set<Requirement> = [],
    _ write: (inout Assembler) -> Void
  ) {
    var assembler = Assembler(origin: GuestProgram.origin)
    write(&assembler)
    self.name = name
    image = [(GuestProgram.origin, assembler.assembled())] + Assembler.pageTables()
    self.transcript = transcript
    self.end = end
    self.vcpus = vcpus
    self.requirements = requirements
  }

  /// What is wrong with a run of this program; nil when nothing is.
  package func complaint(about run: GuestRun) -> String? {
    if run.end == end, run.transcript == transcript { return nil }
    return "said \"\(run.transcript)\" and ended with \(run.end), not \"\(transcript)\" and \(end)"
  }

  /// All of them.
  package static let all: [GuestProgram] = [
    realMode, realModeInterrupt, protectedMode, paging32, longMode, exceptions, userMode,
    systemCall, interrupts, haltAndResume, nonMaskable, startup, echo, stringAccess, tripleFault,
    registersOfTheMachine, readOnlyMemory, movingMemory, identification, foreignInstruction,
  ]
}
