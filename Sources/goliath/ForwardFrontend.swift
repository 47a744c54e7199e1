import Chardev
import Host
import Net
import Options

/// A forwarded address of a guest's network (`guestfwd=`) at a character device.
@MainLoop
final class ForwardFrontend: ChardevFrontend, ForwardTarget {
  private let chardevs: ChardevRegistry
  private var port: ChardevPort?
  /// Devices that were made for this alone, in order of creation.
  private let own: [String]
  private var room: @MainLoop () -> Int = { 0 }
  private var deliver: @MainLoop ([UInt8]) -> Void = { _ in }
  private var drained: @MainLoop () -> Void = {}
  /// The guest did not take everything.
  private var isHolding = false

  /// Bytes that may wait before the guest has to.
  private static let limit = 1 << 20

  /// `text` is `chardev:ID` or a short form, of which a device called `label` is made. Throws QEMU's sentence about that, if it has one.
  init(_ label: String, _ text: String, in chardevs: ChardevRegistry) throws(NetError) {
    self.chardevs = chardevs
    var made: [String] = []
    var name = label
    if text.hasPrefix("chardev:") {
      name = String(text.dropFirst(8))
    } else {
      let devices: [ChardevConfiguration]
      do throws(ChardevText.Failure) {
        devices = try ChardevText.shortForm(text, label: label)
      } catch { throw NetError(error.lines.joined(separator: "\n")) }
      for device in devices {
        do throws(ChardevError) { try chardevs.create(device.label, device.backend) } catch {
          ForwardFrontend.remove(made, from: chardevs)
          throw NetError(error.message)
        }
        made.append(device.label)
      }
    }
    own = made
    guard let chardev = chardevs[name] else { throw NetError("") }
    do throws(ChardevError) { port = try chardev.attach(self) } catch {
      ForwardFrontend.remove(made, from: chardevs)
      throw NetError(error.message)
    }
  }

  private static func remove(_ labels: [String], from chardevs: ChardevRegistry) {
    for label in labels.reversed() { try? chardevs.remove(label) }
  }

  // MARK: - ForwardTarget

  func write(_ bytes: [UInt8]) { port?.write(bytes) }

  var isFull: Bool {
    guard let port, port.queuedByteCount > ForwardFrontend.limit else { return false }
    port.notifyWhenDrained()
    return true
  }

  func attach(
    room: @escaping @MainLoop () -> Int, deliver: @escaping @MainLoop ([UInt8]) -> Void,
    drained: @escaping @MainLoop () -> Void
  ) {
    self.room = room
    self.deliver = deliver
    self.drained = drained
  }

  func roomMayHaveGrown() {
    guard isHolding, room() > 0 else { return }
    isHolding = false
    port?.resumeReceiving()
  }

  func close() {
    port?.detach()
    port = nil
    ForwardFrontend.remove(own, from: chardevs)
  }

  // MARK: - ChardevFrontend

  func chardevReceived(_ bytes: [UInt8]) -> Int {
    let count = min(room(), bytes.count)
    isHolding = count < bytes.count
    if count > 0 { deliver(count == bytes.count ? bytes : Array(bytes[..<count])) }
    return count
  }

  func chardevDrained() { drained() }
}
