package import Options
package import QAPI

/// The machine's run states and what leads from one to the next: a pure model.
///
/// Every method answers what is to be done, in order; it changes the state at once.
package struct RunControl: Equatable, Sendable {
  /// One thing that the machine must do.
  package enum Effect: Equatable, Sendable {
    case pauseVCPUs
    case resumeVCPUs
    case resetMachine
    /// A reset from which the guest finds its memory again.
    case wakeMachine
    case emit(QAPI.Event)
    case pressPowerButton
    case injectNMI
    /// The process ends with this status.
    case exit(Int32)
  }

  package private(set) var state = RunState.prelaunch
  /// What reboot, shutdown, panic and watchdog lead to (`-action`, `set-action`).
  package var actions: ActionConfiguration

  package init(actions: ActionConfiguration = ActionConfiguration()) { self.actions = actions }

  /// Whether vCPUs execute.
  package var isRunning: Bool { state == .running }

  /// Another node, which decides, is in this state.
  package mutating func follow(_ state: RunState) { self.state = state }

  /// `stop`.
  package mutating func stop() -> [Effect] {
    isRunning ? halt(.paused) : []
  }

  /// `cont`. Throws the sentence that QMP reports when a reset must come first.
  package mutating func resume() throws(RunControlError) -> [Effect] {
    switch state {
    case .running, .suspended: return []
    case .shutdown, .internalError:
      throw RunControlError(message: "Resetting the Virtual Machine is required")
    default:
      state = .running
      return [.emit(.resume), .resumeVCPUs]
    }
  }

  /// A reset, by the guest or by the monitor; with `-no-reboot` both end the machine.
  package mutating func reset(_ cause: ShutdownCause) -> [Effect] {
    let byGuest = cause == .guestReset
    if actions.reboot == .shutdown { return shutDown(cause) }
    var effects: [Effect] = isRunning ? [.pauseVCPUs] : []
    effects += [.resetMachine, .emit(.reset(guest: byGuest, reason: cause))]
    if isRunning { return effects + [.resumeVCPUs] }
    state = .prelaunch
    return effects
  }

  /// Power off: by the guest, a signal, the monitor.
  package mutating func shutDown(_ cause: ShutdownCause) -> [Effect] {
    let byGuest = RunControl.isOfGuest(cause)
    let event = Effect.emit(.shutdown(guest: byGuest, reason: cause))
    // What asks for the end of the process gets it whatever the action says; a reset does not ask for that.
    if byGuest || cause == .hostQmpSystemReset, actions.shutdown == .pause {
      return [event] + (isRunning ? halt(.shutdown) : [])
    }
    state = .shutdown
    return [.pauseVCPUs, event, .exit(0)]
  }

  /// Whether the guest brought it about.
  static func isOfGuest(_ cause: ShutdownCause) -> Bool {
    [.guestShutdown, .guestReset, .guestPanic].contains(cause)
  }

  /// The guest reports that its kernel has crashed.
  package mutating func panic() -> [Effect] {
    switch actions.panic {
    case .none: return [.emit(.guestPanicked(action: .run))]
    case .shutdown where actions.shutdown == .pause, .pause:
      return [.emit(.guestPanicked(action: .pause))] + (isRunning ? halt(.guestPanicked) : [])
    case .shutdown: return [.emit(.guestPanicked(action: .poweroff))] + shutDown(.guestPanic)
    case .exitFailure:
      state = .shutdown
      return [
        .pauseVCPUs, .emit(.guestPanicked(action: .poweroff)),
        .emit(.shutdown(guest: true, reason: .guestPanic)), .exit(1),
      ]
    }
  }

  /// The guest has not fed its watchdog in time.
  package mutating func watchdogExpired() -> [Effect] {
    switch actions.watchdog {
    case .reset: return [.emit(.watchdog(action: .reset))] + reset(.guestReset)
    case .shutdown: return [.emit(.watchdog(action: .shutdown)), .pressPowerButton]
    case .poweroff:
      state = .shutdown
      return [.pauseVCPUs, .emit(.watchdog(action: .poweroff)), .exit(0)]
    case .pause: return [.emit(.watchdog(action: .pause))] + (isRunning ? halt(.watchdog) : [])
    case .debug: return [.emit(.watchdog(action: .debug))]
    case .none: return [.emit(.watchdog(action: .none))]
    case .injectNMI: return [.emit(.watchdog(action: .injectNmi)), .injectNMI]
    }
  }

  /// The guest entered ACPI S3.
  package mutating func suspend() -> [Effect] {
    guard isRunning else { return [] }
    state = .suspended
    return [.pauseVCPUs, .emit(.suspend)]
  }

  /// `system_wakeup` or a wake event.
  package mutating func wakeUp() throws(RunControlError) -> [Effect] {
    guard state == .suspended else {
      throw RunControlError(message: "Unable to wake up: guest is not in suspended state")
    }
    state = .running
    return [.wakeMachine, .emit(.wakeup), .resumeVCPUs]
  }

  /// The machine's state is to be saved: the guest stands meanwhile.
  package mutating func beginSaving() -> [Effect] {
    isRunning ? halt(.saveVm) : []
  }

  /// The state has been saved, and the guest ran before; a reset meanwhile does not keep it from running on.
  package mutating func endSaving() -> [Effect] {
    guard state == .saveVm || state == .prelaunch else { return [] }
    state = .running
    return [.emit(.resume), .resumeVCPUs]
  }

  /// A vCPU cannot go on.
  package mutating func fail() -> [Effect] {
    isRunning ? halt(.internalError) : []
  }

  /// A disk failed, and its error policy says that the machine stops.
  package mutating func stopOnDiskError() -> [Effect] {
    isRunning ? halt(.ioError) : []
  }

  /// A breakpoint or single step of the monitor's.
  package mutating func debugStop() -> [Effect] {
    isRunning ? halt(.debug) : []
  }

  private mutating func halt(_ next: RunState) -> [Effect] {
    state = next
    return [.pauseVCPUs, .emit(.stop)]
  }
}

/// A command that the present run state forbids.
package struct RunControlError: Error, Equatable, Sendable {
  /// QEMU's sentence.
  package let message: String
}
