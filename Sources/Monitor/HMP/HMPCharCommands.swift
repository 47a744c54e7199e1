import Host
import Options
import QAPI

/// Commands about character devices and descriptors.
extension HMPCommandTable {
  static let characterDeviceCommands = [
    HMPCommand(
      "chardev-add", "args:s", "args",
      help: "add a character device, described as for -chardev",
      completion: HMPCompleters.characterDeviceKinds
    ) { session, arguments throws(QAPIError) in
      guard
        let devices = try characterDevices(session, arguments.text("args") ?? "", isChange: false)
      else { return }
      for (id, backend) in devices {
        if let path = try added(session, id, backend).pty {
          session.print("char device redirected to \(path) (label \(id))\n")
        }
      }
    },
    HMPCommand(
      "chardev-change", "id:s,args:s", "id args",
      help: "give a character device another backend, described as for -chardev"
    ) { session, arguments throws(QAPIError) in
      let id = arguments.text("id") ?? ""
      let devices = try characterDevices(session, arguments.text("args") ?? "", isChange: true)
      guard let device = devices?.first else { return }
      if let path = try session.commands.chardevChange(id: id, backend: device.1).pty {
        session.print("char device redirected to \(path) (label \(id))\n")
      }
    },
    HMPCommand(
      "chardev-remove", "id:s", "id", help: "remove a character device that nothing uses",
      completion: HMPCompleters.characterDevices
    ) { session, arguments throws(QAPIError) in
      try session.commands.chardevRemove(id: arguments.text("id") ?? "")
    },
    HMPCommand(
      "chardev-send-break", "id:s", "id", help: "send a break condition to a device's user",
      completion: HMPCompleters.characterDevices
    ) { session, arguments throws(QAPIError) in
      try session.commands.chardevSendBreak(id: arguments.text("id") ?? "")
    },
    HMPCommand(
      "ringbuf_write", "device:s,data:s", "device data",
      help: "put text into the memory of a 'ringbuf' device", completion: HMPCompleters.ringBuffers
    ) { session, arguments throws(QAPIError) in
      try session.commands.ringbufWrite(
        device: arguments.text("device") ?? "", data: arguments.text("data") ?? "", format: nil)
    },
    HMPCommand(
      "ringbuf_read", "device:s,size:i", "device size",
      help: "take text out of the memory of a 'ringbuf' device",
      completion: HMPCompleters.ringBuffers
    ) { session, arguments throws(QAPIError) in
      let text = try session.commands.ringbufRead(
        device: arguments.text("device") ?? "", size: Int(arguments.integer("size") ?? 0),
        format: nil)
      session.print(escaped(text) + "\n")
    },
    HMPCommand(
      "getfd", "fdname:s", "getfd name",
      help: "keep the descriptor that came with this line (SCM_RIGHTS) under a name",
      early: true
    ) { session, arguments throws(QAPIError) in
      try session.commands.getfd(fdname: arguments.text("fdname") ?? "")
    },
    HMPCommand(
      "closefd", "fdname:s", "closefd name", help: "close a descriptor kept with getfd", early: true
    ) {
      session, arguments throws(QAPIError) in
      try session.commands.closefd(fdname: arguments.text("fdname") ?? "")
    },
  ]

  // MARK: -

  /// Adds a device. Here QEMU's sentences say less than those of the QMP command, which it does not use.
  @MainLoop
  private static func added(
    _ session: HMPSession, _ id: String, _ backend: ChardevBackend
  ) throws(QAPIError) -> ChardevReturn {
    do throws(QAPIError) {
      return try session.commands.chardevAdd(id: id, backend: backend)
    } catch {
      let prefix = "Failed to add chardev '\(id)': "
      if error.description.hasPrefix(prefix) {
        throw QAPIError(String(error.description.dropFirst(prefix.count)))
      }
      guard error.description == "Chardev with id '\(id)' already exists" else { throw error }
      throw QAPIError(
        "attempt to add duplicate property '\(id)' to object (type 'container')")
    }
  }

  /// The devices that a text describes. Prints what is wrong with it, or the help that it asks for, and answers nil.
  ///
  /// - Parameter isChange: the text is for a device that exists: it names none.
  @MainLoop
  static func characterDevices(
    _ session: HMPSession, _ text: String, isChange: Bool
  ) throws(QAPIError) -> [(String, ChardevBackend)]? {
    do throws(ChardevText.Failure) {
      switch try ChardevText.parse(text, hasIdentifier: !isChange) {
      case .devices(let devices): return devices.map { ($0.label, $0.backend) }
      case .help(let lines):
        for line in lines { session.print(line + "\n") }
        return nil
      }
    } catch {
      for line in error.lines.dropLast() { session.print(line + "\n") }
      throw QAPIError(error.lines.last ?? "")
    }
  }

  /// Text of a device as a terminal may see it.
  private static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": result += "\\\\"
      case "\n": result.unicodeScalars.append(scalar)
      case _ where scalar.value < 0x20 || scalar.value == 0x7F:
        result += "\\u\(TextForm.hex(scalar.value, 4).uppercased())"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
