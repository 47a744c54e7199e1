import Chardev
import Host
import Machine
package import QAPI

// schemas/char.json

extension MonitorCommands: @MainLoop CharCommands {
  package func queryChardev() throws(QAPIError) -> [ChardevInfo] {
    try context.chardevs.list.map { device in
      ChardevInfo(
        label: device.label, filename: device.filename, frontendOpen: device.isFrontendOpen)
    }
  }

  package func queryChardevBackends() throws(QAPIError) -> [ChardevBackendInfo] {
    ChardevRegistry.supportedKinds.map { ChardevBackendInfo(name: $0.rawValue) }
  }

  package func chardevAdd(id: String, backend: ChardevBackend) throws(QAPIError) -> ChardevReturn {
    let chardevs = try context.machine.chardevs
    if chardevs[id] != nil { throw QAPIError("Chardev with id '\(id)' already exists") }
    do throws(ChardevError) {
      return ChardevReturn(
        pty: try chardevs.create(id, backend, isRunning: true).pseudoTerminalPath)
    } catch {
      throw QAPIError("Failed to add chardev '\(id)': \(error.message)")
    }
  }

  package func chardevChange(
    id: String, backend: ChardevBackend
  ) throws(QAPIError) -> ChardevReturn {
    let chardevs = try context.machine.chardevs
    do throws(ChardevError) {
      return ChardevReturn(pty: try chardevs.change(id, backend).pseudoTerminalPath)
    } catch { throw QAPIError(error.message) }
  }

  package func chardevRemove(id: String) throws(QAPIError) {
    let chardevs = try context.machine.chardevs
    do throws(ChardevError) { try chardevs.remove(id) } catch { throw QAPIError(error.message) }
  }

  package func chardevSendBreak(id: String) throws(QAPIError) {
    guard let device = try context.machine.chardevs[id] else {
      throw QAPIError("Chardev '\(id)' not found")
    }
    device.sendBreak()
  }

  package func ringbufWrite(device: String, data: String, format: DataFormat?) throws(QAPIError) {
    let ring = try ringBuffer(device)
    let bytes: [UInt8]
    switch format ?? .utf8 {
    case .utf8: bytes = Array(data.utf8)
    case .base64:
      guard let decoded = Base64.decode(data) else {
        throw QAPIError("Base64 data contains invalid characters")
      }
      bytes = decoded
    }
    guard ring.writeRingBuffer(bytes) else { throw notARingBuffer(device) }
  }

  package func ringbufRead(
    device: String, size: Int, format: DataFormat?
  ) throws(QAPIError) -> String {
    let ring = try ringBuffer(device)
    // Asks for nothing first: the kind of device is complained about before the size.
    guard ring.readRingBuffer(limit: 0) != nil else { throw notARingBuffer(device) }
    guard size > 0 else { throw QAPIError("size must be greater than zero") }
    let bytes = ring.readRingBuffer(limit: size) ?? []
    switch format ?? .utf8 {
    case .utf8: return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    case .base64: return Base64.encode(bytes)
    }
  }

  // MARK: -

  private func ringBuffer(_ label: String) throws(QAPIError) -> Chardev {
    guard let device = try context.machine.chardevs[label] else {
      throw QAPIError("Device '\(label)' not found")
    }
    return device
  }

  private func notARingBuffer(_ label: String) -> QAPIError {
    QAPIError("\(label) is not a ringbuf device")
  }
}
