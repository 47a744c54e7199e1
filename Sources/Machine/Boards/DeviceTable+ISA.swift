import Chardev
import DeviceModel
import Devices
import Host

extension DeviceTable {
  /// Devices of the ISA bus, and those without a bus.
  static let isa: [DeviceRecipe] = [
    DeviceRecipe(SerialPort.type) { (assembly) throws(DeviceError) in
      let serial = try assembly.properties.makeSerialPort(
        next: UInt32(assembly.count { $0 is SerialPort }))
      try assembly.connect { (chardev) throws(ChardevError) in try SerialFrontend(serial, chardev) }
      return serial
    },
    DeviceRecipe(ParallelPort.type) { (assembly) throws(DeviceError) in
      let parallel = try assembly.properties.makeParallelPort(
        next: UInt32(assembly.count { $0 is ParallelPort }))
      try assembly.connect { (chardev) throws(ChardevError) in
        try OutputFrontend(chardev, attach: parallel.attach, drained: parallel.backendWritable)
      }
      return parallel
    },
    DeviceRecipe(DebugConsole.type) { (assembly) throws(DeviceError) in
      let properties = assembly.properties
      let console = DebugConsole(
        port: try properties.port("iobase", default: 0xE9),
        readback: UInt8(truncatingIfNeeded: try properties.number("readback", default: 0xE9)))
      try assembly.connect { (chardev) throws(ChardevError) in
        try OutputFrontend(chardev, attach: console.attach, drained: console.backendWritable)
      }
      return console
    },
    DeviceRecipe(DebugExit.type) { (assembly) throws(DeviceError) in
      let properties = assembly.properties
      return DebugExit(
        port: try properties.port("iobase", default: 0x501),
        size: UInt32(truncatingIfNeeded: try properties.number("iosize", default: 2)))
    },
    DeviceRecipe(PVPanic.type) { (assembly) throws(DeviceError) in
      let properties = assembly.properties
      return PVPanic(
        port: try properties.port("ioport", default: 0x505),
        events: UInt8(truncatingIfNeeded: try properties.number("events", default: 3)))
    },
    DeviceRecipe(IB700.type) { _ in IB700() },
    DeviceRecipe(VMCoreInfo.type) { assembly in VMCoreInfo(assembly.board.fwCfg) },
  ]
}

extension DeviceAssembly {
  /// How many of the board's devices fulfil the condition.
  func count(_ condition: (any Device) -> Bool) -> Int {
    board.devices.count { condition($0.device) }
  }

  /// The character device that `chardev=` names; nil when nothing was said. Throws when there is none of that name.
  func chardev() throws(DeviceError) -> Chardev? {
    guard let label = properties.text("chardev"), !label.isEmpty else { return nil }
    guard let chardev = board.chardevs[label] else {
      throw DeviceError(
        .badValue, "Property '\(properties.type.name).chardev' can't find value '\(label)'")
    }
    settings["chardev"] = .string(label)
    return chardev
  }

  /// Attaches a frontend to the character device that `chardev=` names, if it does.
  func connect(
    _ make: @MainLoop (Chardev) throws(ChardevError) -> any ChardevFrontend & DeviceAttachment
  ) throws(DeviceError) {
    guard let chardev = try chardev() else { return }
    do throws(ChardevError) {
      attachments.append(try make(chardev))
    } catch {
      throw DeviceError(
        .busy,
        "Property '\(properties.type.name).chardev' can't take value"
          + " '\(properties.text("chardev") ?? "")': \(error.message)")
    }
  }
}
