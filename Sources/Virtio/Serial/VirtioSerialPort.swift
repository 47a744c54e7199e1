package import Host

/// Where a port's bytes go: what a character device offers it.
package struct VirtioSerialSink: Sendable {
  /// Takes bytes; answers how many. When not all, `VirtioSerialPort.sinkDrained` follows.
  package let send: @MainLoop @Sendable ([UInt8]) -> Int
  /// The guest can take input again.
  package let resumeReceiving: @MainLoop @Sendable () -> Void

  package init(
    send: @escaping @MainLoop @Sendable ([UInt8]) -> Int,
    resumeReceiving: @escaping @MainLoop @Sendable () -> Void
  ) {
    self.send = send
    self.resumeReceiving = resumeReceiving
  }
}

/// One port of a `VirtioSerial`: between the guest's queues and a character device.
@MainLoop
package final class VirtioSerialPort {
  /// A console's output is never held back, since drivers wait for it with interrupts off: what finds no room is lost.
  package let isConsole: Bool
  /// What the guest's `name` attribute shows; empty for none.
  package let name: String
  /// Once it is on a device.
  package private(set) var number: Int?
  /// Whether a program in the guest has opened it.
  package private(set) var isGuestOpen = false
  /// Whether somebody is at the other side.
  package private(set) var isHostOpen = false
  /// Whether the guest's output waits for the character device.
  package private(set) var isThrottled = false

  private var sink: VirtioSerialSink?
  private weak var serial: VirtioSerial?
  /// What the character device has not taken of the last buffer.
  private var rest: [UInt8] = []
  private let guestOpenChanged: @MainLoop (Bool) -> Void

  /// `guestOpenChanged` hears when a program in the guest opens or closes the port.
  package init(
    isConsole: Bool, name: String, guestOpenChanged: @escaping @MainLoop (Bool) -> Void
  ) {
    self.isConsole = isConsole
    self.name = name
    self.guestOpenChanged = guestOpenChanged
  }

  // MARK: - Character device's side

  /// Connects the character device. A console counts as open from now on.
  package func attach(_ sink: VirtioSerialSink) {
    self.sink = sink
    if isConsole { setHostOpen(true) }
  }

  /// Somebody came to the other side, or left; a console does not care.
  package func sinkOpened(_ isOpen: Bool) {
    if !isConsole { setHostOpen(isOpen) }
  }

  /// The character device takes bytes again.
  package func sinkDrained() {
    guard isThrottled else { return }
    isThrottled = false
    let bytes = rest
    rest = []
    if !bytes.isEmpty { transmitWhole(bytes) }
    if !isThrottled, let number { serial?.outputRoomChanged(number) }
  }

  /// Bytes for the guest; answers how many it took.
  package func receive(_ bytes: [UInt8]) -> Int {
    guard isGuestOpen, let serial, let number else { return 0 }
    return serial.deliver(bytes, to: number)
  }

  private func setHostOpen(_ isOpen: Bool) {
    guard isOpen != isHostOpen else { return }
    isHostOpen = isOpen
    if !isOpen {
      isThrottled = false
      rest = []
    }
    if let number { serial?.hostOpened(isOpen, number) }
  }

  // MARK: - Device's side

  func connect(to serial: VirtioSerial, number: Int) {
    self.serial = serial
    self.number = number
  }

  func disconnect() {
    guestOpened(false)
    serial = nil
    rest = []
  }

  func guestOpened(_ isOpen: Bool) {
    guard isOpen != isGuestOpen else { return }
    isGuestOpen = isOpen
    guestOpenChanged(isOpen)
    if isOpen { sink?.resumeReceiving() }
  }

  func guestReset() {
    isThrottled = false
    rest = []
    guestOpened(false)
  }

  /// The guest offers buffers.
  func inputRoomChanged() {
    if isGuestOpen { sink?.resumeReceiving() }
  }

  /// Gives bytes to the character device; what it does not take waits, and throttles the guest, or is lost (a console).
  func transmitWhole(_ bytes: [UInt8]) {
    let taken = transmit(bytes)
    guard taken < bytes.count, !isConsole else { return }
    rest = Array(bytes[taken...])
    isThrottled = true
  }

  /// Answers how many bytes went out; all when there is nobody.
  func transmit(_ bytes: [UInt8]) -> Int {
    guard let sink, isHostOpen else { return bytes.count }
    return sink.send(bytes)
  }
}
