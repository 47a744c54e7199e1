import CPU
import Guests
import Testing
import Translator

/// Each flat guest on the software CPU.
@Suite struct GuestTests {
  @Test(arguments: GuestProgram.all)
  func guestBehavesOnTheSoftwareCPU(_ program: GuestProgram) throws {
    let run = try GuestRun(program, on: TCGAccelerator(cacheBytes: 1 << 20))
    #expect(program.complaint(about: run) == nil)
  }
}
