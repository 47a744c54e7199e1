import Glibc
package import Host
package import JSON

/// A guest on several running `goliath`s, each with a QMP socket. Gone, with all its files, when nobody holds it.
package final class GoliathCluster: Sendable {
  /// How nodes have the guest's RAM, and by which sockets they talk.
  package enum Memory: String, CaseIterable, Sendable {
    case shm, unix, tcp
    /// As `tcp`, protected with keys.
    case tls
  }

  /// By number, whatever order they were started in.
  package let nodes: [Goliath]
  /// Sockets and disks.
  package let folder: String

  /// Starts the nodes one after the other, as `order` says (by number; usually 0 first). Node N runs the vCPUs `vcpus[N]`, as `-cluster`
  /// spells them, and gets `arguments` as all do, and `own(N, folder)`. Node 0's serial port is on its standard output.
  package init(
    _ memory: Memory, vcpus: [String], order: [Int]? = nil, _ arguments: [String],
    own: (Int, _ folder: String) throws(SystemError) -> [String] = { _, _ throws(SystemError) in []
    }
  ) throws(SystemError) {
    folder = Goliath.temporaryFolder()
    let folder = folder
    let id = "test-\(folder.split(separator: "-").last ?? "")"
    let peers: [String]
    switch memory {
    case .shm, .unix: peers = vcpus.indices.map { "unix:\(folder)/node-\($0)" }
    case .tcp, .tls: peers = try GoliathCluster.freePorts(vcpus.count).map { "127.0.0.1:\($0)" }
    }
    // A busy host gives a node no time for seconds: that is not what these tests are about.
    var shared =
      (memory == .shm ? "memory=shm,shm-path=/\(id)" : "memory=dsm") + ",lease-ms=60000"
    var credentials: [String] = []
    if memory == .tls {
      let keys = vcpus.indices.map { node in
        "\(id)/\(node):"
          + (0..<32).map { _ in String(UInt8.random(in: 16...255), radix: 16) }.joined() + "\n"
      }
      try Process.createFile(Array(keys.joined().utf8), at: folder + "/keys.psk")
      shared += ",psk=keys"
      credentials = ["-object", "tls-creds-psk,id=keys,dir=\(folder),endpoint=server"]
    }
    var started: [Int: Goliath] = [:]
    for number in order ?? Array(vcpus.indices) {
      let cluster =
        "id=\(id),node=\(number),vcpus=\(vcpus[number]),peers=\(peers.joined(separator: "+")),"
        + "\(shared)"
      let own = try own(number, folder)
      started[number] = try Goliath(
        ["-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio"]
          + credentials + ["-cluster", cluster] + arguments + own)
    }
    nodes = vcpus.indices.compactMap { started[$0] }
  }

  deinit {
    for node in nodes {
      node.process.kill(signal: SIGKILL)
      _ = node.process.wait(seconds: 5)
    }
    _ = try? Process.output(["rm", "-rf", folder])
  }

  /// Waits for the end of all nodes; their exit statuses, nil where one still runs.
  package func wait(seconds: Double = 60) -> [Int32?] {
    let limit = HostClock.monotonic + Int64(seconds * 1e9)
    return nodes.map { node in
      // Whoever writes much must not wait for a reader.
      _ = node.process.readUntil(seconds: Double(limit - HostClock.monotonic) / 1e9) { _ in false }
      return node.process.wait(seconds: max(Double(limit - HostClock.monotonic) / 1e9, 0.1))
    }
  }

  /// Port numbers that nobody has at the moment.
  package static func freePorts(_ count: Int) throws(SystemError) -> [UInt16] {
    // All at once, so that they differ.
    var sockets: [Int32] = []
    defer { for socket in sockets { close(socket) } }
    for _ in 0..<count {
      do throws(SocketError) {
        let socket = try Socket.listen(.inet(InetAddress(host: "127.0.0.1", port: "0")))
        sockets.append(socket.release())
      } catch {
        throw SystemError(call: "listen", code: EADDRINUSE)
      }
    }
    return sockets.compactMap { Socket.localAddress($0)?.port }
  }
}
