package import Host
package import QAPI

/// `tap` and `bridge`: an interface of the host's kernel.
@MainLoop
package final class TapBackend: NetBackend {
  /// One descriptor and what was read from it.
  private final class Queue {
    let file: FileDescriptor
    let buffer = IOBuffer(count: Frame.maximum + Offload.longHeader)
    var watch: Watch?
    var isFull = false
    init(_ file: consuming FileDescriptor) { self.file = file }
  }
  private var queues: [Queue] = []
  package private(set) var ports: [NetPort] = []
  private let hasHeader: Bool
  private var downScript: String?
  private var interface = ""
  private let headerSize: Int

  static let defaultScript = "/etc/qemu-ifup"
  static let defaultDownScript = "/etc/qemu-ifdown"
  static let defaultHelper = "/usr/lib/qemu/qemu-bridge-helper"

  package init(_ id: String, _ options: NetdevTapOptions, in network: Network) throws(NetError) {
    if options.vhost == true || options.vhostforce == true || options.vhostfd != nil
      || options.vhostfds != nil
    {
      throw NetError("vhost is not supported; virtio-net without it uses the tap interface as well")
    }
    let given = [options.ifname, options.script, options.downscript, options.helper]
    if let fd = options.fd {
      if given.contains(where: { $0 != nil }) || options.vnetHdr != nil || options.queues != nil
        || options.fds != nil
      {
        throw NetError(
          "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are"
            + " invalid with fd=")
      }
      (queues, hasHeader) = try TapBackend.adopt([fd], id, network)
      headerSize = TapBackend.prepare(queues, hasHeader)
      finish(id, "fd=\(queues.first?.file.rawValue ?? -1)")
    } else if let fds = options.fds {
      if given.contains(where: { $0 != nil }) || options.vnetHdr != nil || options.queues != nil {
        throw NetError(
          "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid"
            + " with fds=")
      }
      (queues, hasHeader) = try TapBackend.adopt(
        fds.split(separator: ":").map(String.init), id, network)
      headerSize = TapBackend.prepare(queues, hasHeader)
      finish(id, nil)
    } else if let helper = options.helper {
      if options.ifname != nil || options.script != nil || options.downscript != nil
        || options.vnetHdr != nil || options.queues != nil
      {
        throw NetError(
          "ifname=, script=, downscript=, vnet_hdr=, queues=, and vhostfds= are invalid with"
            + " helper=")
      }
      let bridge = options.br ?? "br0"
      (queues, hasHeader) = try TapBackend.bridged(helper, bridge)
      headerSize = TapBackend.prepare(queues, hasHeader)
      finish(id, "helper=\(helper)")
    } else {
      let count = options.queues ?? 1
      guard (1...1024).contains(count) else { throw NetError("Invalid number of queues") }
      let script = options.script ?? TapBackend.defaultScript
      let down = options.downscript ?? TapBackend.defaultDownScript
      var name = options.ifname
      var header = options.vnetHdr
      var opened: [Queue] = []
      for _ in 0..<count {
        do throws(SystemError) {
          let tap = try TapDevice.open(name, wantsHeader: header, queues: Int32(count))
          opened.append(Queue(FileDescriptor(owning: tap.descriptor)))
          name = tap.name
          header = tap.hasHeader
        } catch {
          throw NetError("could not configure /dev/net/tun (\(name ?? "tap%d")): \(error.reason)")
        }
        if opened.count == 1, script != "no", !script.isEmpty {
          guard (try? TapDevice.runScript(script, name ?? "")) == 0 else {
            throw NetError("network script \(script) failed with status 256")
          }
        }
      }
      interface = name ?? ""
      downScript = down == "no" || down.isEmpty ? nil : down
      queues = opened
      hasHeader = header ?? false
      headerSize = TapBackend.prepare(opened, hasHeader)
      finish(id, "ifname=\(interface),script=\(script),downscript=\(down)")
    }
    if let size = options.sndbuf, let first = queues.first {
      do throws(SystemError) {
        try TapDevice.setSendBuffer(first.file.rawValue, Int32(clamping: size))
      } catch { throw NetError("TUNSETSNDBUF ioctl failed: \(error.reason)") }
    }
    try watch()
  }

  package init(_ id: String, bridge options: NetdevBridgeOptions) throws(NetError) {
    let helper = options.helper ?? TapBackend.defaultHelper
    let bridge = options.br ?? "br0"
    (queues, hasHeader) = try TapBackend.bridged(helper, bridge)
    headerSize = TapBackend.prepare(queues, hasHeader)
    finish(id, "helper=\(helper),br=\(bridge)", kind: "bridge")
    try watch()
  }

  private static func bridged(
    _ helper: String, _ bridge: String
  ) throws(NetError) -> ([Queue], Bool) {
    guard let file = TapDevice.runBridgeHelper(helper, bridge: bridge, withHeader: true) else {
      throw NetError("bridge helper failed")
    }
    let number = file.rawValue
    return ([Queue(file)], TapDevice.hasHeader(number) ?? false)
  }

  /// Takes over descriptors that are numbers, or names given with `getfd`.
  private static func adopt(
    _ names: [String], _ id: String, _ network: Network
  ) throws(NetError) -> ([Queue], Bool) {
    var queues: [Queue] = []
    var header: Bool?
    for name in names {
      let number = try GivenDescriptor.number(name, id, network)
      guard let has = TapDevice.hasHeader(number) else {
        throw NetError("Unable to query TUNGETIFF on FD \(number)")
      }
      if let header, header != has {
        throw NetError("vnet_hdr not consistent across given tap fds")
      }
      header = has
      let file = FileDescriptor(owning: number)
      do throws(SystemError) { try file.setNonBlocking() } catch {
        throw NetError("\(id): Can't use file descriptor \(number): \(error.reason)")
      }
      queues.append(Queue(file))
    }
    return (queues, header ?? false)
  }

  /// Chooses the header; answers its size.
  private static func prepare(_ queues: [Queue], _ hasHeader: Bool) -> Int {
    guard hasHeader else { return 0 }
    for queue in queues {
      TapDevice.setOffloads(queue.file.rawValue, [])
      guard TapDevice.setHeaderSize(queue.file.rawValue, Offload.longHeader) else {
        return Offload.shortHeader
      }
    }
    return Offload.longHeader
  }

  private func finish(_ id: String, _ details: String?, kind: String = "tap") {
    for (index, queue) in queues.enumerated() {
      let port = NetPort(
        id, kind: kind, index: index, details: details ?? "fd=\(queue.file.rawValue)", owner: self)
      port.accepts = hasHeader ? .all : []
      port.joinsSegments = true
      ports.append(port)
    }
  }

  private func watch() throws(NetError) {
    for (index, queue) in queues.enumerated() {
      do throws(SystemError) {
        queue.watch = try MainLoop.watch(queue.file.rawValue, .readable) { [weak self] ready in
          self?.ready(index, ready)
        }
      } catch { throw NetError("tap: \(error.reason)") }
    }
  }

  package func close() {
    for queue in queues {
      queue.watch?.cancel()
      queue.watch = nil
    }
    queues = []
    if let downScript {
      _ = try? TapDevice.runScript(downScript, interface)
      self.downScript = nil
    }
  }

  package func setOffloads(_ offloads: OffloadSet) {
    guard hasHeader else { return }
    var wanted: TapDevice.Offloads = []
    if offloads.contains(.checksum) {
      wanted.insert(.checksum)
      if offloads.contains(.tcp4) { wanted.insert(.tso4) }
      if offloads.contains(.tcp6) { wanted.insert(.tso6) }
      if offloads.contains(.ecn), !wanted.isDisjoint(with: [.tso4, .tso6]) { wanted.insert(.ecn) }
      if offloads.contains(.udp) { wanted.insert(.ufo) }
    }
    for queue in queues { TapDevice.setOffloads(queue.file.rawValue, wanted) }
  }

  package func setActiveQueues(_ count: Int) {
    guard queues.count > 1 else { return }
    for (index, queue) in queues.enumerated() where index > 0 {
      TapDevice.setQueue(queue.file.rawValue, on: index < count)
    }
  }

  // MARK: - Frames

  private func ready(_ index: Int, _ ready: Readiness) {
    guard queues.indices.contains(index) else { return }
    let queue = queues[index]
    if ready.contains(.writable) { flush(queue, ports[index]) }
    if !ready.isDisjoint(with: [.readable, .hungUp]) { read(queue, ports[index]) }
  }

  private func update(_ queue: Queue, _ port: NetPort) {
    var interest: Readiness = []
    if !port.isWaiting { interest.insert(.readable) }
    if queue.isFull { interest.insert(.writable) }
    queue.watch?.change(to: interest)
  }

  /// Most frames in one turn of the main loop.
  private static let budget = 256

  private func read(_ queue: Queue, _ port: NetPort) {
    var left = TapBackend.budget
    while left > 0, !port.isWaiting {
      left -= 1
      guard let count = try? queue.buffer.read(from: queue.file.rawValue, at: 0),
        count > headerSize
      else { break }
      var offload = Offload.none
      if headerSize > 0 { offload = Offload(from: queue.buffer, at: 0) ?? .none }
      port.send(Frame(queue.buffer, headerSize..<count, offload))
    }
    port.endBurst()
    if port.isWaiting { update(queue, port) }
  }

  package func resumeSending(on port: NetPort) {
    guard queues.indices.contains(port.index) else { return }
    update(queues[port.index], port)
  }

  package func receive(_ frame: Frame, on port: NetPort) -> Bool {
    guard queues.indices.contains(port.index) else { return true }
    let queue = queues[port.index]
    if queue.isFull { return false }
    guard !write(frame, queue) else { return true }
    queue.isFull = true
    update(queue, port)
    return false
  }

  private let output = IOBuffer(count: Frame.maximum + Offload.longHeader)

  /// False when the interface takes nothing now.
  private func write(_ frame: Frame, _ queue: Queue) -> Bool {
    guard frame.count <= Frame.maximum else { return true }
    if headerSize > 0 {
      output.storeLittleEndian(UInt64(0), at: 0)
      output.storeLittleEndian(UInt32(0), at: 8)
      frame.offload.store(to: output, at: 0)
    }
    output.copy(frame.range, of: frame.buffer, at: headerSize)
    do throws(SystemError) {
      return try output.write(0..<headerSize + frame.count, to: queue.file.rawValue) != nil
    } catch {
      // An interface that is down, or a frame that it does not want.
      return true
    }
  }

  private func flush(_ queue: Queue, _ port: NetPort) {
    queue.isFull = false
    port.becomesReady()
    update(queue, port)
  }
}

/// Descriptors that the command line or a monitor's client names.
@MainLoop
enum GivenDescriptor {
  /// A number, or a name given with `getfd`. Throws with QEMU's sentences.
  static func number(_ name: String, _ id: String, _ network: Network) throws(NetError) -> Int32 {
    if let first = name.utf8.first, first >= 0x30, first <= 0x39 {
      guard let number = Int32(name) else {
        throw NetError("\(id): Can't use file descriptor \(name): Bad file descriptor")
      }
      guard Descriptors.isOpen(number) else {
        throw NetError("\(id): Can't use file descriptor \(number): Bad file descriptor")
      }
      return number
    }
    guard let number = network.descriptorNamed(name) else {
      throw NetError("File descriptor named '\(name)' has not been found")
    }
    return number
  }
}
