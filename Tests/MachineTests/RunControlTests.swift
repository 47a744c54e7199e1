import Machine
import Options
import QAPI
import Testing

@Suite struct RunControlTests {
  private func running(_ change: (inout RunControl) -> Void = { _ in }) throws -> RunControl {
    var control = RunControl()
    change(&control)
    _ = try control.resume()
    return control
  }

  @Test func aResetRestartsTheMachine() throws {
    var control = try running()
    let effects = control.reset(.guestReset)
    #expect(effects.contains(.resetMachine) && effects.last == .resumeVCPUs)
    #expect(control.isRunning)
  }

  @Test func withNoRebootResetsOfGuestAndMonitorEndTheProcess() throws {
    for cause in [ShutdownCause.guestReset, .hostQmpSystemReset] {
      var control = try running { $0.actions.reboot = .shutdown }
      let effects = control.reset(cause)
      #expect(!effects.contains(.resetMachine) && effects.last == .exit(0))
    }
  }

  @Test func withNoRebootAndNoShutdownAResetPauses() throws {
    for cause in [ShutdownCause.guestReset, .hostQmpSystemReset] {
      var control = try running {
        $0.actions.reboot = .shutdown
        $0.actions.shutdown = .pause
      }
      let effects = control.reset(cause)
      #expect(effects.contains(.pauseVCPUs) && !effects.contains(.exit(0)))
      #expect(control.state == .shutdown)
      #expect(throws: RunControlError.self) { try control.resume() }
    }
  }

  @Test func quitAndSignalsEndEvenWithNoShutdown() throws {
    for cause in [ShutdownCause.hostQmpQuit, .hostSignal, .hostUi] {
      var control = try running { $0.actions.shutdown = .pause }
      #expect(control.shutDown(cause).last == .exit(0))
    }
  }

  @Test func aPanicFollowsItsAction() throws {
    var control = try running { $0.actions.panic = .pause }
    #expect(control.panic().contains(.pauseVCPUs))
    #expect(control.state == .guestPanicked)
    var failing = try running { $0.actions.panic = .exitFailure }
    #expect(failing.panic().last == .exit(1))
    var ignoring = try running { $0.actions.panic = .none }
    _ = ignoring.panic()
    #expect(ignoring.isRunning)
  }
}
