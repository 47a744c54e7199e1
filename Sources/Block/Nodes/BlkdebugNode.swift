import Glibc
package import Host
package import JSON
import Synchronization

/// Makes requests to the node below fail by rules (driver `blkdebug`): for tests.
///
/// Events that rules name happen with requests of their kind (`read_aio` with reads, `pwritev` and `write_aio` with writes…), and when a format says so (`happened`).
package final class BlkdebugNode: BlockNode, BlockParent {
  package enum Operation: String, Sendable, CaseIterable {
    case read, write
    case writeZeroes = "write-zeroes"
    case discard, flush
    case blockStatus = "block-status"
  }

  /// A failure to come.
  package struct Injection: Equatable, Sendable {
    package var event = "none"
    /// In which state it applies; 0: in any.
    package var state: Int64 = 0
    package var operations: Set<Operation> = [.read, .write, .writeZeroes, .discard, .flush]
    package var code: Int32 = EIO
    /// Requests that touch this byte; nil: all.
    package var offset: UInt64?
    package var once = false

    package init() {}
  }

  /// A change of state.
  package struct Transition: Equatable, Sendable {
    package var event: String
    package var state: Int64
    package var newState: Int64

    package init(event: String, state: Int64, newState: Int64) {
      self.event = event
      self.state = state
      self.newState = newState
    }
  }

  package let driver = "blkdebug"
  package let name: String
  package let isReadOnly: Bool
  package let limits: BlockLimits
  private let image: ChildSlot

  private struct Rules {
    var state: Int64 = 1
    var injections: [Injection]
    var transitions: [Transition]
    /// Those whose event has happened, by position.
    var active: [Int] = []
    var spent: Set<Int> = []
  }
  private let rules: Mutex<Rules>

  package init(
    name: String, image: any BlockNode, injections: [Injection] = [],
    transitions: [Transition] = [], limits: BlockLimits? = nil, isReadOnly: Bool = false
  ) {
    self.name = name
    self.image = ChildSlot(image)
    self.isReadOnly = isReadOnly || image.isReadOnly
    self.limits = limits ?? image.limits
    rules = Mutex(Rules(injections: injections, transitions: transitions))
  }

  package var length: UInt64 { image.node.length }
  package var children: [BlockChild] { [BlockChild(role: "image", node: image.node)] }
  package var allocatedSize: UInt64? { image.node.allocatedSize }

  package func replaceChild(_ role: String, with node: any BlockNode) -> Bool {
    guard role == "image" else { return false }
    image.node = node
    return true
  }

  /// Something that rules can name has happened.
  package func happened(_ event: String) {
    rules.withLock { rules in
      var hasInjected = false
      for (place, injection) in rules.injections.enumerated()
      where injection.event == event && !rules.spent.contains(place)
        && (injection.state == 0 || injection.state == rules.state)
      {
        if !hasInjected { rules.active = [] }
        hasInjected = true
        rules.active.append(place)
      }
      let old = rules.state
      for transition in rules.transitions
      where transition.event == event && (transition.state == 0 || transition.state == old) {
        rules.state = transition.newState
      }
    }
  }

  private func check(
    _ operation: Operation, _ offset: UInt64 = 0, _ count: UInt64 = 0, _ events: [String] = []
  ) throws(BlockError) {
    for event in events { happened(event) }
    let code: Int32? = rules.withLock { rules in
      for (place, injection) in rules.injections.enumerated() {
        let isActive =
          injection.event == "none"
          ? injection.state == 0 || injection.state == rules.state
          : rules.active.contains(place)
        guard isActive, !rules.spent.contains(place), injection.operations.contains(operation)
        else { continue }
        if let byte = injection.offset, count > 0, byte < offset || byte - offset >= count {
          continue
        }
        if injection.once { rules.spent.insert(place) }
        return injection.code
      }
      return nil
    }
    if let code, code != 0 {
      let error = SystemError(call: "blkdebug", code: code)
      throw BlockError(code, error.reason)
    }
  }

  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try check(.read, offset, UInt64(target.count), ["read_aio"])
    try image.node.read(offset, into: target)
  }

  package func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags
  ) throws(BlockError) {
    try check(.write, offset, UInt64(source.count), ["write_aio", "pwritev"])
    try image.node.write(offset, from: source, flags)
    happened("pwritev_done")
  }

  package func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags
  ) throws(BlockError) {
    try check(.writeZeroes, offset, count, ["pwritev_zero"])
    try image.node.writeZeroes(offset, count, flags)
  }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    try check(.discard, offset, count)
    try image.node.discard(offset, count)
  }

  package func flush() throws(BlockError) {
    try check(.flush, 0, 0, ["flush_to_os", "flush_to_disk"])
    try image.node.flush()
  }

  package func truncate(
    to length: UInt64, _ preallocation: Preallocation
  ) throws(BlockError) { try image.node.truncate(to: length, preallocation) }

  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    try check(.blockStatus, offset, count)
    return try image.node.status(offset, count)
  }
}

extension BlockGraph {
  func openBlkdebug(
    _ name: String, _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    let given = request.options.rest
    var injections: [BlkdebugNode.Injection] = []
    var transitions: [BlkdebugNode.Transition] = []
    if let config = try request.options.string("config"), !config.isEmpty {
      for (section, values) in try BlkdebugRules.read(config) {
        try BlkdebugRules.add(section, values, &injections, &transitions)
      }
    }
    for section in ["inject-error", "set-state"] {
      for value in try request.options.list(section) ?? [] {
        guard case .object(let object) = value else {
          throw BlockError(
            EINVAL, "Invalid parameter type for '\(section)', expected: object")
        }
        try BlkdebugRules.add(section, object, &injections, &transitions)
      }
    }
    let align = try request.options.size("align")
    if let align, align == 0 || align & (align - 1) != 0 || align > UInt64(Int32.max) {
      throw BlockError(EINVAL, "Cannot meet constraints with align \(align)")
    }
    let maximum = try request.options.size("max-transfer")
    let zeroing = try request.options.size("opt-write-zero")
    for other in ["max-write-zero", "opt-discard", "max-discard"] {
      _ = try request.options.size(other)
    }
    _ = request.options.take("take-child-perms")
    _ = request.options.take("unshare-child-perms")
    let below = settings.forFile
    let image: any BlockNode
    if let name = try request.options.string("x-image") {
      image = try openNode(
        Request(
          filename: name, options: try OptionReader([:]), settings: below, isProtocol: true))
    } else if let node = try openChild("image", &request, below, isProtocol: true) {
      image = node
    } else {
      throw BlockError(EINVAL, "A block device must be specified for \"image\"")
    }
    do throws(BlockError) {
      try checkLeftovers("blkdebug", request.options, isProtocol: true)
      var limits = image.limits
      if let align { limits.requestAlignment = UInt32(align) }
      if let maximum { limits.maximumTransfer = UInt32(clamping: maximum) }
      if let zeroing { limits.preferredZeroing = UInt32(clamping: zeroing) }
      let node = BlkdebugNode(
        name: name, image: image, injections: injections, transitions: transitions,
        limits: limits, isReadOnly: settings.isReadOnly)
      return try finish(node, settings, filename: filename(of: image), options: given)
    } catch {
      try? releaseIfUnused(image.name)
      throw error
    }
  }
}

/// Rules as options and configuration files have them.
enum BlkdebugRules {
  /// The sections of a file like `[inject-error]` with lines like `event = "read_aio"`.
  static func read(_ path: String) throws(BlockError) -> [(String, JSONObject)] {
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try FileDescriptor.contents(of: path, limit: 1 << 20)
    } catch {
      throw BlockError(error, "Could not read blkdebug config file")
    }
    var result: [(String, JSONObject)] = []
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let line = trimmed(line)
      if line.isEmpty || line.hasPrefix("#") { continue }
      if line.hasPrefix("[") {
        guard line.hasSuffix("]") else { throw malformed(path) }
        result.append((String(line.dropFirst().dropLast()), JSONObject()))
        continue
      }
      guard let equals = line.firstIndex(of: "="), !result.isEmpty else { throw malformed(path) }
      let key = trimmed(line[..<equals])
      var value = trimmed(line[line.index(after: equals)...])
      if value.hasPrefix("\""), value.hasSuffix("\""), value.utf8.count >= 2 {
        value = String(value.dropFirst().dropLast())
      }
      result[result.count - 1].1[key] = .string(value)
    }
    return result
  }

  private static func trimmed(_ text: Substring) -> String {
    var text = text
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return String(text)
  }

  private static func malformed(_ path: String) -> BlockError {
    BlockError(EINVAL, "Could not parse blkdebug config file '\(path)'")
  }

  static func add(
    _ section: String, _ values: JSONObject, _ injections: inout [BlkdebugNode.Injection],
    _ transitions: inout [BlkdebugNode.Transition]
  ) throws(BlockError) {
    var values = try OptionReader(values)
    guard let event = try values.string("event") else {
      throw BlockError(EINVAL, "Missing event name for rule")
    }
    let state = try values.integer("state") ?? 0
    switch section {
    case "inject-error":
      var rule = BlkdebugNode.Injection()
      rule.event = event
      rule.state = state
      if let type = try values.string("iotype") {
        guard let operation = BlkdebugNode.Operation(rawValue: type) else {
          throw BlockError(EINVAL, "Invalid parameter '\(type)'")
        }
        rule.operations = [operation]
      }
      if let code = try values.integer("errno") { rule.code = Int32(clamping: code) }
      if let sector = try values.integer("sector"), sector >= 0 {
        rule.offset = UInt64(sector) &* 512
      }
      rule.once = try values.bool("once") ?? false
      _ = try values.bool("immediately")
      injections.append(rule)
    case "set-state":
      guard let next = try values.integer("new_state") else {
        throw BlockError(EINVAL, "Parameter 'new_state' is missing")
      }
      transitions.append(.init(event: event, state: state, newState: next))
    default:
      throw BlockError(EINVAL, "Invalid rule '\(section)'")
    }
    if let key = values.firstLeftover {
      throw BlockError(EINVAL, "Invalid parameter '\(key)'")
    }
  }
}
