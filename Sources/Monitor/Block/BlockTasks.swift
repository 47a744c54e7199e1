import Glibc
import Block
import Host
import Machine
import QAPI

// How commands work on disks: off the main loop, those that change something one after the other.

extension QAPIError {
  /// A failure of the block graph.
  init(_ error: BlockError) { self.init(error.message) }
}

extension MonitorCommands {
  /// Runs what may block on a thread of its own.
  func inBackground<Value: Sendable>(
    _ body: @escaping @Sendable () throws(BlockError) -> Value
  ) async throws(QAPIError) -> Value {
    let result: Result<Value, BlockError>
    do {
      result = try await HostThread.value(name: "block") {
        Result { () throws(BlockError) in try body() }
      }
    } catch {
      throw QAPIError("\(error)")
    }
    do throws(BlockError) { return try result.get() } catch { throw QAPIError(error) }
  }

  /// The same for what changes the graph: nobody else changes it meanwhile.
  func changingBlocks<Value: Sendable>(
    _ body: @escaping @Sendable (BlockGraph) throws(BlockError) -> Value
  ) async throws(QAPIError) -> Value {
    let graph = context.blocks
    await context.blockGate.enter()
    defer { context.blockGate.leave() }
    return try await inBackground { () throws(BlockError) in try body(graph) }
  }

  /// The drive that a command means: by its name, or by the id or object path of its device. Throws QEMU's sentences.
  func backend(device: String?, id: String?) throws(QAPIError) -> BlockBackend {
    let graph = context.blocks
    switch (device, id) {
    case (nil, nil), (.some, .some):
      throw QAPIError("Need exactly one of 'device' and 'id'")
    case (nil, let id?):
      if let backend = graph.backend(ofDevice: id) { return backend }
      if try context.machine.devices.contains(where: { $0.id == id || $0.path == id }) {
        throw QAPIError("Device does not have a block device backend")
      }
      throw QAPIError(.deviceNotFound, "Device '\(id)' not found")
    case (let name?, nil):
      guard let backend = graph.backend(named: name) else {
        throw QAPIError(.deviceNotFound, "Device '\(name)' not found")
      }
      return backend
    }
  }
}

extension BlockGraph {
  /// The node that a command means by a drive's name, a node's name, or either. Throws QEMU's sentences.
  func find(device: String?, nodeName: String?) throws(BlockError) -> any BlockNode {
    if let device, let backend = backend(named: device) {
      guard let node = backend.node else {
        throw BlockError(ENOMEDIUM, "Device '\(device)' has no medium")
      }
      return node
    }
    if let nodeName, let node = node(named: nodeName) { return node }
    throw BlockError(
      ENODEV, "Cannot find device='\(device ?? "")' nor node-name='\(nodeName ?? "")'")
  }

  /// The same by one name for both; nothing else stands on the node.
  func findRoot(_ name: String) throws(BlockError) -> any BlockNode {
    let node = try find(device: name, nodeName: name)
    guard let entry = entry(of: node), entry.users.allSatisfy({ $0.role == "root" }) else {
      throw BlockError(EINVAL, "Need a root block node")
    }
    return node
  }

  /// The drives whose requests reach a node.
  func drained(for node: any BlockNode) -> [BlockBackend] {
    backends.filter { backend in
      var pending = backend.node.map { [$0] } ?? []
      while let next = pending.popLast() {
        if next.name == node.name { return true }
        pending += next.children.map(\.node)
      }
      return false
    }
  }

  /// Runs `body` while no request of a device reaches the node. Blocks until those in flight are done.
  func whileDrained<Value>(
    _ nodes: [any BlockNode], _ body: () throws(BlockError) -> Value
  ) throws(BlockError) -> Value {
    var held: [BlockBackend] = []
    for node in nodes {
      held += drained(for: node).filter { new in !held.contains { $0 === new } }
    }
    for backend in held { backend.beginDrain() }
    defer { for backend in held.reversed() { backend.endDrain() } }
    return try body()
  }
}
