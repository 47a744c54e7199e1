import Chardev
import DeviceModel
import Host
import PCI
import QAPI
import Virtio

extension DeviceTable {
  /// The serial bus of virtio and its ports.
  static let virtioSerial: [DeviceRecipe] = [
    DeviceRecipe(VirtioSerialPCI.type) { (assembly) throws(DeviceError) in
      let properties = assembly.properties
      let ports = try properties.number("max_ports", default: 31)
      guard ports > 0 else {
        throw DeviceError(.badValue, "Maximum number of serial ports not specified")
      }
      guard ports <= UInt64(VirtioSerial.mostPorts) else {
        throw DeviceError(.badValue, "maximum ports supported: \(VirtioSerial.mostPorts)")
      }
      var settings = try assembly.virtio(vectors: 2)
      if try properties.number("vectors", default: 2) == 0xFFFF_FFFF {
        settings.vectors = min(Int(ports) + 1, MSIX.maximumVectors)
      }
      let code = try properties.number("class", default: 0)
      // Communication, display, or none of them; everything else becomes the first.
      settings.classCode = UInt32([0x0380, 0x00FF].contains(code) ? code : 0x0780) << 8
      return VirtioSerialPCI(
        try assembly.placement(), settings, maximumPorts: Int(ports),
        takesEmergencyWrites: try properties.flag("emergency-write", default: true),
        busName: assembly.id.map { "\($0).0" } ?? assembly.busName(VirtioSerialPCI.busType))
    },
    DeviceRecipe(VirtSerialPort.type) { (assembly) throws(DeviceError) in
      let (port, serial, number) = try assembly.port(isConsole: false)
      return VirtSerialPort(port, on: serial, number: number)
    },
    DeviceRecipe(VirtSerialPort.consoleType) { (assembly) throws(DeviceError) in
      let (port, serial, number) = try assembly.port(isConsole: true)
      return VirtSerialPort(port, on: serial, number: number)
    },
  ]
}

extension VirtioSerialPCI: DeviceBusOwner {
  func buses(id: String?, path: String) -> [DeviceBus] {
    [
      DeviceBus(
        name: busName, type: VirtioSerialPCI.busType, owner: path, isHotpluggable: true)
    ]
  }
}

extension DeviceAssembly {
  /// A name for a bus of a device without id: the type's, with a number that counts up.
  func busName(_ type: String) -> String { "\(type).\(board.nextBusNumber(type))" }

  /// The port that the properties describe, with its character device, and where it goes.
  fileprivate func port(
    isConsole: Bool
  ) throws(DeviceError) -> (VirtioSerialPort, VirtioSerial, UInt32?) {
    let owner = board.devices.first { $0.path == bus?.owner }?.device as? VirtioSerialPCI
    guard let serial = owner?.serial else {
      throw DeviceError(
        .badValue,
        "No '\(VirtioSerialPCI.busType)' bus found for device '\(properties.type.name)'")
    }
    let name = properties.text("name") ?? ""
    let isTaken = board.devices.contains {
      ($0.device as? VirtSerialPort).map { !name.isEmpty && $0.port.name == name }
        ?? false
    }
    let given = try properties.number("nr", default: 0xFFFF_FFFF)
    let number = given == 0xFFFF_FFFF ? nil : UInt32(truncatingIfNeeded: given)
    let (id, board) = (id, board)
    let port = VirtioSerialPort(isConsole: isConsole, name: name) { [weak board] isOpen in
      if let id { board?.portChanged(id, isOpen) }
    }
    let chardev = try chardev()
    if isTaken, number.map({ serial.isFree($0) }) ?? true {
      throw DeviceError(.busy, "virtio-serial-bus: A port already exists by name \(name)")
    }
    if let chardev {
      do throws(ChardevError) {
        attachments.append(try VirtioSerialFrontend(port, chardev))
      } catch {
        throw DeviceError(
          .busy,
          "Property '\(properties.type.name).chardev' can't take value '\(chardev.label)':"
            + " \(error.message)")
      }
    }
    return (port, serial, number)
  }
}

/// Connects a port of virtio's serial bus to its character device.
@MainLoop
final class VirtioSerialFrontend: ChardevFrontend, DeviceAttachment {
  private let serialPort: VirtioSerialPort
  private var port: ChardevPort?
  private var isOpen = false

  /// Bytes that may wait for a slow backend before the guest has to.
  private static let outputLimit = 256 << 10

  init(_ serialPort: VirtioSerialPort, _ chardev: Chardev) throws(ChardevError) {
    self.serialPort = serialPort
    let port = try chardev.attach(self, outputLimit: VirtioSerialFrontend.outputLimit)
    self.port = port
    serialPort.attach(
      VirtioSerialSink(send: { port.write($0) }, resumeReceiving: { port.resumeReceiving() }))
    serialPort.sinkOpened(isOpen)
  }

  var canChangeDevice: Bool { true }
  func chardevReceived(_ bytes: [UInt8]) -> Int { serialPort.receive(bytes) }
  func chardevOpened() {
    isOpen = true
    serialPort.sinkOpened(true)
  }
  func chardevClosed() {
    isOpen = false
    serialPort.sinkOpened(false)
  }
  func chardevDrained() { serialPort.sinkDrained() }
  func detach() { port?.detach() }
}
