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

  @Test func aWatchdogDoesWhatItsActionSays() throws {
    func effects(_ action: ActionConfiguration.Watchdog) throws -> ([RunControl.Effect], RunState) {
      var control = try running { $0.actions.watchdog = action }
      return (control.watchdogExpired(), control.state)
    }
    #expect(try effects(.reset).0.contains(.resetMachine))
    #expect(try effects(.shutdown).0 == [.emit(.watchdog(action: .shutdown)), .pressPowerButton])
    #expect(
      try effects(.poweroff).0
        == [.pauseVCPUs, .emit(.watchdog(action: .poweroff)), .exit(0)])
    let paused = try effects(.pause)
    #expect(
      paused.0 == [.emit(.watchdog(action: .pause)), .pauseVCPUs, .emit(.stop)]
        && paused.1 == .watchdog)
    #expect(try effects(.debug).0 == [.emit(.watchdog(action: .debug))])
    #expect(try effects(.none).0 == [.emit(.watchdog(action: .none))])
    let interrupted = try effects(.injectNMI)
    #expect(interrupted.0.last == .injectNMI && interrupted.1 == .running)
  }

  @Test func savingStopsTheGuestForAWhile() throws {
    var control = try running()
    #expect(control.beginSaving() == [.pauseVCPUs, .emit(.stop)])
    #expect(control.state == .saveVm && !control.isRunning)
    #expect(control.beginSaving() == [])
    #expect(control.endSaving() == [.emit(.resume), .resumeVCPUs] && control.isRunning)
    _ = control.beginSaving()
    _ = control.reset(.hostQmpSystemReset)
    #expect(control.endSaving().last == .resumeVCPUs)
  }
}
