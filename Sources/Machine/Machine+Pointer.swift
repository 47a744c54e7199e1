package import Devices

/// What a user's hand does.
extension Machine {
  /// Whether there is a mouse.
  package var hasMouse: Bool { keyboardController != nil }

  /// Moves the mouse (counts; right, down and away from the user are positive). Nothing while the guest does not run.
  package func moveMouse(x: Int, y: Int, wheel: Int = 0) {
    guard isRunning else { return }
    // The device's axes point up and towards the user.
    keyboardController?.moveMouse(x: x, y: 0 &- y, wheel: 0 &- wheel)
  }

  /// Holds mouse buttons from now on: bit 0 left, 1 right, 2 middle. Nothing while the guest does not run.
  package func holdMouseButtons(_ buttons: UInt8) {
    guard isRunning else { return }
    keyboardController?.moveMouse(x: 0, y: 0, buttons: buttons)
  }

  /// The keyboard controller, which keyboard and mouse are at; nil when the board has none.
  package var keyboardController: I8042? {
    for placed in devices {
      if let controller = placed.device as? I8042 { return controller }
    }
    return nil
  }
}
