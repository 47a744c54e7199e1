import Chardev
import Devices
import Host
import Synchronization

/// Connects a serial port to its character device.
@MainLoop
final class SerialFrontend: ChardevFrontend, DeviceAttachment {
  private let serial: SerialPort
  private var port: ChardevPort?

  /// Bytes that may wait for a slow backend before the guest's transmitter has to.
  private static let outputLimit = 64 << 10

  init(_ serial: SerialPort, _ chardev: Chardev) throws(ChardevError) {
    self.serial = serial
    let port = try chardev.attach(self, outputLimit: SerialFrontend.outputLimit)
    self.port = port
    serial.attach(
      CharacterSink(
        send: { port.write($0) }, receiveReady: { port.resumeReceiving() },
        setLine: { line in
          let parity: Character =
            switch line.parity {
            case .none: "N"
            case .odd: "O"
            case .even: "E"
            }
          port.setLine(
            ChardevLine(
              speed: Int32(clamping: line.speed), dataBits: Int32(line.dataBits), parity: parity,
              stopBits: Int32(line.stopBits), isSendingBreak: line.isSendingBreak))
        }))
  }

  var canChangeDevice: Bool { true }
  func chardevReceived(_ bytes: [UInt8]) -> Int { serial.receive(bytes[...]) }
  func chardevOpened() { serial.setConnected(true) }
  func chardevClosed() { serial.setConnected(false) }
  func chardevBreak() { serial.receiveBreak() }
  func chardevDrained() { serial.backendWritable() }
  func detach() { port?.detach() }
}

/// Connects a device that only writes to its character device.
@MainLoop
final class OutputFrontend: ChardevFrontend, DeviceAttachment {
  private var port: ChardevPort?
  private let drained: @Sendable () -> Void

  /// `attach` takes the sink; `drained` tells the device that it may go on.
  init(
    _ chardev: Chardev, attach: (CharacterSink) -> Void, drained: @escaping @Sendable () -> Void
  ) throws(ChardevError) {
    self.drained = drained
    let port = try chardev.attach(self, outputLimit: 64 << 10)
    self.port = port
    attach(CharacterSink(send: { port.write($0) }))
  }

  func chardevReceived(_ bytes: [UInt8]) -> Int { bytes.count }
  func chardevDrained() { drained() }
  func detach() { port?.detach() }
}
