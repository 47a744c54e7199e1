package import Host

/// What uses a character device: a serial port, a monitor, a debug console.
///
/// All calls come on the main loop; a frontend that is shared with vCPU threads locks its model inside.
@MainLoop
package protocol ChardevFrontend: AnyObject {
  /// Bytes arrived. Answers how many of them, from the first, were taken. The device keeps the rest and stops
  /// reading until the frontend calls `ChardevPort.resumeReceiving`.
  func chardevReceived(_ bytes: [UInt8]) -> Int

  /// Someone is at the other side now: a client connected, a terminal was opened. At once after `attach` for
  /// devices that are always open.
  func chardevOpened()

  /// The other side is gone. What was not taken yet is dropped.
  func chardevClosed()

  /// A break condition (telnet's BREAK, C-a b).
  func chardevBreak()

  /// After a `write` that was not taken whole: there is room again.
  func chardevDrained()

  /// Whether the device may become another one below it (`chardev-change`).
  var canChangeDevice: Bool { get }

  /// On a multiplexed device: keys go to this frontend from now on, or no longer.
  func chardevFocusChanged(_ hasFocus: Bool)
}

extension ChardevFrontend {
  package var canChangeDevice: Bool { false }
  package func chardevOpened() {}
  package func chardevClosed() {}
  package func chardevBreak() {}
  package func chardevDrained() {}
  package func chardevFocusChanged(_ hasFocus: Bool) {}
}
