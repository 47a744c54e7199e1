import Glibc
package import JSON
import Synchronization

/// The nodes of a process by name: who uses which, what may be done with them, and how they come and go.
///
/// Any thread. Opening, closing and whatever writes blocks: never on the main loop.
package final class BlockGraph: Sendable {
  /// A node and what is known of it.
  package struct Entry: Sendable {
    package let node: any BlockNode
    package var settings: NodeSettings
    /// The name that it was opened by, as users see it.
    package var filename: String
    /// The options that it was opened with, without those that every driver has.
    package var options: JSONObject
    /// Made by `blockdev-add` or `-blockdev`, so that `blockdev-del` may end it.
    package var isOwnedByMonitor = false
    /// The backing file as the image's header has it, and its format.
    package var backingFile: String?
    package var backingFormat: String?
    /// Its backing file came with `insertOverlay`.
    var hasGivenBacking = false
    /// What is below was open for writing until then.
    var hasClosedBase = false
    package var users: [NodeUse] = []
    /// Why operations are refused now, by who refuses.
    package var blockers: [String] = []

    /// All that is done with it.
    package var used: BlockPermissions { users.reduce([]) { $0.union($1.used) } }
    /// What all users let others do.
    package var shared: BlockPermissions { users.reduce(.all) { $0.intersection($1.shared) } }
  }

  struct State {
    var entries: [String: Entry] = [:]
    /// Names in order of creation.
    var order: [String] = []
    /// In order of creation.
    var backends: [BlockBackend] = []
    var nextName: UInt64 = 0
    /// Names of nodes that are being opened.
    var reserved: Set<String> = []
  }

  /// Drivers that show what is below them, all or a part.
  package static let filterDrivers: Set<String> = [
    "raw", "throttle", "blkdebug", "copy-on-read", "compress",
  ]

  let state = Mutex(State())
  private let warn: @Sendable (String) -> Void
  /// Groups that throttle together, by name.
  package let throttleGroups = ThrottleGroups()
  /// Told of damage that an image in use turns out to have; set once, early.
  let corruptionHandler = Mutex<(@Sendable (String, Qcow2Corruption) -> Void)?>(nil)

  /// An empty graph. `warn` shows a line to the user.
  package init(warn: @escaping @Sendable (String) -> Void = { _ in }) { self.warn = warn }

  func showWarning(_ text: String) { warn(text) }

  /// `handler` is called with the name of a node and what is wrong with its image, from any thread.
  package func onCorruption(
    _ handler: @escaping @Sendable (_ node: String, Qcow2Corruption) -> Void
  ) {
    corruptionHandler.withLock { $0 = handler }
  }

  // MARK: Looking

  /// The node of that name.
  package func node(named name: String) -> (any BlockNode)? {
    state.withLock { $0.entries[name]?.node }
  }

  /// What is known of the node of that name.
  package func entry(named name: String) -> Entry? { state.withLock { $0.entries[name] } }

  package func entry(of node: any BlockNode) -> Entry? { entry(named: node.name) }

  /// All nodes, newest first, as `query-named-block-nodes` has them.
  package var entries: [Entry] {
    state.withLock { state in state.order.reversed().compactMap { state.entries[$0] } }
  }

  /// The node that a user means by a device's or a node's name. Throws in QEMU's words.
  package func lookUp(_ name: String) throws(BlockError) -> any BlockNode {
    if let backend = backend(named: name) {
      guard let node = backend.node else {
        throw BlockError(ENOMEDIUM, "Device '\(name)' has no medium")
      }
      return node
    }
    guard let node = node(named: name) else {
      throw BlockError(ENODEV, "Cannot find device='\(name)' nor node-name='\(name)'")
    }
    return node
  }

  /// The nodes from `node` down along backing files, itself first.
  package func backingChain(of node: any BlockNode) -> [any BlockNode] {
    var result: [any BlockNode] = []
    var next: (any BlockNode)? = node
    while let current = next {
      result.append(current)
      next = BlockGraph.backing(of: current)
    }
    return result
  }

  /// The backing file of a node, also through filters.
  package static func backing(of node: any BlockNode) -> (any BlockNode)? {
    var current = node
    while filterDrivers.contains(current.driver), let below = current.children.first?.node {
      current = below
    }
    return current.child("backing")
  }

  // MARK: Names

  /// A name for a node that the user has not named, such as `#block132`.
  func makeName() -> String {
    state.withLock { state in
      while true {
        let digits = Int.random(in: 0..<100)
        let name = "#block\(state.nextName)\(digits < 10 ? "0" : "")\(digits)"
        state.nextName += 1
        if state.entries[name] == nil, state.reserved.insert(name).inserted { return name }
      }
    }
  }

  /// Takes a name that the user chose. Throws in QEMU's words.
  func reserve(_ name: String) throws(BlockError) {
    guard BlockGraph.isIdentifier(name) else {
      throw BlockError(EINVAL, "Invalid node-name: '\(name)'")
    }
    guard name.utf8.count < 32 else { throw BlockError(EINVAL, "Node name too long") }
    if backend(named: name) != nil {
      throw BlockError(EINVAL, "node-name=\(name) is conflicting with a device id")
    }
    let isNew = state.withLock { state in
      state.entries[name] == nil && state.reserved.insert(name).inserted
    }
    guard isNew else {
      throw BlockError(EINVAL, "Duplicate nodes with node-name='\(name)'")
    }
  }

  func unreserve(_ name: String) { state.withLock { _ = $0.reserved.remove(name) } }

  /// Letters, digits, `-`, `.`, `_`, beginning with a letter.
  package static func isIdentifier(_ text: String) -> Bool {
    guard let first = text.utf8.first, first | 0x20 >= 0x61, first | 0x20 <= 0x7A else {
      return false
    }
    return text.utf8.allSatisfy {
      ($0 | 0x20 >= 0x61 && $0 | 0x20 <= 0x7A) || ($0 >= 0x30 && $0 <= 0x39)
        || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "_")
    }
  }

  // MARK: Coming and going

  /// Adds a node that was made, with a reserved or a new name, and its uses of what is below it. Throws, and nothing has changed, when they conflict with others'.
  func insert(_ entry: Entry) throws(BlockError) {
    let name = entry.node.name
    let result: Result<Void, BlockError> = state.withLock { state in
      Result { () throws(BlockError) in
        let before = state
        state.reserved.remove(name)
        state.entries[name] = entry
        state.order.append(name)
        for child in entry.node.children {
          let use = NodeUse(
            holder: .node(name), role: child.role, description: "node '\(name)'")
          let isClaimed =
            state.entries[child.node.name]?.users.contains {
              $0.holder == use.holder && $0.role == use.role
            } ?? true
          if !isClaimed { state.entries[child.node.name]?.users.append(use) }
        }
        try BlockGraph.applyPermissions(&state, from: [name], orRestore: before)
      }
    }
    do throws(BlockError) { try result.get() } catch {
      throw FileNode.naming(error, below: entry.node)
    }
  }

  /// Adds a node made elsewhere (tests, jobs). Throws as `insert`.
  package func add(
    _ node: any BlockNode, settings: NodeSettings = NodeSettings(), filename: String = ""
  ) throws(BlockError) {
    let isKnown = state.withLock { $0.entries[node.name] != nil }
    guard !isKnown else {
      throw BlockError(EINVAL, "Duplicate nodes with node-name='\(node.name)'")
    }
    try insert(Entry(node: node, settings: settings, filename: filename, options: [:]))
  }

  /// The monitor's own use of a node is over, or has begun.
  package func setOwnedByMonitor(_ name: String, _ isOwned: Bool) {
    state.withLock { $0.entries[name]?.isOwnedByMonitor = isOwned }
  }

  /// Changes the users of a node; nothing changes when permissions conflict, which is thrown.
  func changeUsers(
    of name: String, _ change: (inout [NodeUse]) -> Void
  ) throws(BlockError) {
    let result: Result<Void, BlockError> = state.withLock { state in
      Result { () throws(BlockError) in
        guard state.entries[name] != nil else { return }
        let before = state
        if var users = state.entries[name]?.users {
          change(&users)
          state.entries[name]?.users = users
        }
        try BlockGraph.applyPermissions(&state, from: [name], orRestore: before)
      }
    }
    do throws(BlockError) { try result.get() } catch {
      guard let node = node(named: name) else { throw error }
      throw FileNode.naming(error, below: node)
    }
  }

  /// Uses a file in the name of a node that is still being opened, so that nobody else writes meanwhile. Throws when somebody does.
  func claim(
    _ file: any BlockNode, for name: String, _ settings: NodeSettings
  ) throws(BlockError) {
    let isWritable = !settings.isReadOnly && !file.isReadOnly
    var needs = NodeUse.below(
      driver: "", role: "file", isWritable: isWritable, metadataOnly: settings.metadataOnly,
      used: [], shared: .all)
    if settings.forceShare { needs.shared = .all }
    try changeUsers(of: file.name) { users in
      users.append(
        NodeUse(
          holder: .node(name), role: "file", description: "node '\(name)'", used: needs.used,
          shared: needs.shared))
    }
  }

  /// Gives back what `claim` took, when opening has failed.
  func unclaim(_ file: any BlockNode, for name: String) {
    try? changeUsers(of: file.name) { $0.removeAll { $0.holder == .node(name) } }
  }

  /// Closes a node that nobody uses any more, and those below it. Throws the first failure of closing; all are gone all the same.
  package func releaseIfUnused(_ name: String) throws(BlockError) {
    var failure: BlockError?
    var names = [name]
    while let next = names.popLast() {
      let entry: Entry? = state.withLock { state in
        guard let entry = state.entries[next], entry.users.isEmpty, !entry.isOwnedByMonitor else {
          return nil
        }
        return entry
      }
      guard let entry else { continue }
      let below = entry.node.children.map(\.node.name)
      do throws(BlockError) { try entry.node.close() } catch { failure = failure ?? error }
      state.withLock { state in
        state.entries[next] = nil
        state.order.removeAll { $0 == next }
        for child in below { state.entries[child]?.users.removeAll { $0.holder == .node(next) } }
        // Fewer users never conflict.
        try? BlockGraph.applyPermissions(&state, from: below)
      }
      names += below.reversed()
    }
    if let failure { throw failure }
  }

  /// `blockdev-del`. Throws in QEMU's words.
  package func delete(_ name: String) throws(BlockError) {
    let result: Result<Void, BlockError> = state.withLock { state in
      Result { () throws(BlockError) in
        guard let entry = state.entries[name] else {
          throw BlockError(ENOENT, "Failed to find node with node-name='\(name)'")
        }
        if entry.users.contains(where: { if case .backend = $0.holder { true } else { false } }) {
          throw BlockError(EBUSY, "Node \(name) is in use")
        }
        if let blocker = BlockGraph.blocker(entry) {
          throw BlockError(EBUSY, "Node '\(name)' is busy: \(blocker)")
        }
        guard entry.isOwnedByMonitor else {
          throw BlockError(EINVAL, "Node \(name) is not owned by the monitor")
        }
        guard entry.users.isEmpty else {
          throw BlockError(EBUSY, "Block device \(name) is in use")
        }
        state.entries[name]?.isOwnedByMonitor = false
      }
    }
    try result.get()
    try releaseIfUnused(name)
  }

  /// Throws in QEMU's words when an operation on the node is refused: a job or an overlay needs it as it is.
  package func checkNotBlocked(_ node: any BlockNode) throws(BlockError) {
    guard let entry = entry(of: node), let blocker = BlockGraph.blocker(entry) else { return }
    throw BlockError(EBUSY, "Node '\(node.name)' is busy: \(blocker)")
  }

  private static func blocker(_ entry: Entry) -> String? {
    if let reason = entry.blockers.first { return reason }
    for use in entry.users where use.role == "backing" {
      if case .node(let overlay) = use.holder {
        return "node is used as backing hd of '\(overlay)'"
      }
    }
    return nil
  }

  /// Refuses operations on a node for a reason, until `unblock`.
  package func block(_ name: String, reason: String) {
    state.withLock { $0.entries[name]?.blockers.append(reason) }
  }

  package func unblock(_ name: String, reason: String) {
    state.withLock { state in
      if let place = state.entries[name]?.blockers.firstIndex(of: reason) {
        state.entries[name]?.blockers.remove(at: place)
      }
    }
  }

  /// Drops all that is open, top first: the end of the process. Throws the first failure.
  package func closeAll() throws(BlockError) {
    let names = state.withLock { state in
      for name in state.order { state.entries[name]?.isOwnedByMonitor = false }
      return state.order.reversed()
    }
    var failure: BlockError?
    for name in names {
      do throws(BlockError) { try releaseIfUnused(name) } catch { failure = failure ?? error }
    }
    if let failure { throw failure }
  }

  // MARK: Permissions

  /// Works out what everyone below `names` needs after `state` was changed, and tells the files. Throws when it conflicts with what others need; what was
  /// `before` is put back then.
  static func applyPermissions(
    _ state: inout State, from names: [String], orRestore before: State
  ) throws(BlockError) {
    do throws(BlockError) {
      try applyPermissions(&state, from: names)
    } catch {
      restore(&state, before)
      throw error
    }
  }

  /// Works out what everyone below `names` needs, checks it, and tells the files. Throws and leaves `state` half changed.
  private static func applyPermissions(
    _ state: inout State, from names: [String]
  ) throws(BlockError) {
    var names = names
    var affected: [String] = []
    while let name = names.popLast() {
      guard let entry = state.entries[name] else { continue }
      affected.append(name)
      let (used, shared) = (entry.used, entry.shared)
      for child in entry.node.children {
        guard let below = state.entries[child.node.name],
          let place = below.users.firstIndex(where: {
            $0.holder == .node(name) && $0.role == child.role
          })
        else { continue }
        var needs = NodeUse.below(
          driver: entry.node.driver, role: child.role, isWritable: !entry.node.isReadOnly,
          metadataOnly: entry.settings.metadataOnly, used: used, shared: shared)
        if below.settings.forceShare { needs.shared = .all }
        state.entries[child.node.name]?.users[place].used = needs.used
        state.entries[child.node.name]?.users[place].shared = needs.shared
        names.append(child.node.name)
      }
    }
    var done: Set<String> = []
    // Only when all is known: what was between may have contradicted itself.
    for name in affected where done.insert(name).inserted {
      guard let entry = state.entries[name] else { continue }
      try check(entry)
      if let holder = entry.node as? any PermissionHolder {
        try holder.setPermissions(entry.used, shared: entry.shared)
      }
    }
  }

  private static func check(_ entry: Entry) throws(BlockError) {
    let name = entry.node.name
    for user in entry.users {
      for other in entry.users where other.holder != user.holder || other.role != user.role {
        let conflict = user.used.subtracting(other.shared)
        if !conflict.isEmpty {
          throw BlockError(
            EPERM,
            "Permission conflict on node '\(name)': permissions '\(conflict.names)' are both "
              + "required by \(user.description) (uses node '\(name)' as '\(user.role)' child) "
              + "and unshared by \(other.description) (uses node '\(name)' as "
              + "'\(other.role)' child).")
        }
      }
    }
    if entry.node.isReadOnly,
      !entry.used.intersection([.write, .writeUnchanged]).isEmpty
    {
      throw BlockError(EPERM, "Block node is read-only")
    }
  }

  /// Puts an older state back, and tells the files.
  private static func restore(_ state: inout State, _ before: State) {
    let changed = state.entries.filter { name, entry in before.entries[name]?.users != entry.users }
    state.entries = before.entries
    state.order = before.order
    state.reserved = before.reserved
    for (name, entry) in changed {
      guard let holder = entry.node as? any PermissionHolder else { continue }
      let old = before.entries[name]
      try? holder.setPermissions(old?.used ?? [], shared: old?.shared ?? .all)
    }
  }
}
