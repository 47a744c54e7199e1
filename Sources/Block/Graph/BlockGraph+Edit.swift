import Glibc
package import Host
import JSON
import Synchronization

extension BlockGraph {
  // MARK: Overlays

  /// Puts `overlay`, which nobody uses, over `base`: all users of `base` but the overlay use the overlay from then on. An overlay without a
  /// backing file gets `base` as its own (`blockdev-snapshot`), for which it is opened anew: the answer is the overlay from then on. Waits for requests
  /// in flight. Throws, and nothing has changed.
  @discardableResult
  package func insertOverlay(
    _ overlay: any BlockNode, over base: any BlockNode
  ) throws(BlockError) -> any BlockNode {
    let affected = backends(on: base)
    for backend in affected { backend.beginDrain() }
    defer { for backend in affected { backend.endDrain() } }
    if BlockGraph.backing(of: overlay) == nil {
      try setBacking(of: overlay.name, to: base)
      state.withLock { $0.entries[overlay.name]?.hasGivenBacking = true }
    }
    try moveUsers(from: base.name, to: overlay.name)
    // What is below an overlay stays as it is, and others may be told so; what cannot be closed for writing is open as it was.
    if !base.isReadOnly, (try? setReadOnly(base.name, true)) != nil {
      state.withLock { $0.entries[overlay.name]?.hasClosedBase = true }
    }
    return node(named: overlay.name) ?? overlay
  }

  /// Undoes `insertOverlay`: the users use `base` again. The overlay is closed unless the monitor owns it; then it loses the backing file that it got.
  package func removeOverlay(
    _ name: String, over base: any BlockNode
  ) throws(BlockError) {
    guard let overlay = node(named: name) else { return }
    let affected = backends(on: overlay)
    for backend in affected { backend.beginDrain() }
    defer { for backend in affected { backend.endDrain() } }
    if entry(named: name)?.hasClosedBase == true {
      try setReadOnly(base.name, false)
      state.withLock { $0.entries[name]?.hasClosedBase = false }
    }
    try moveUsers(from: name, to: base.name)
    if let entry = entry(named: name), entry.hasGivenBacking, entry.isOwnedByMonitor {
      try setBacking(of: name, to: nil)
    }
    try releaseIfUnused(name)
  }

  /// Lets nobody write to a node any more, or lets them again, and with it to the file that was opened for it alone; other processes are told by the locks.
  /// No request is in flight. Throws, and nothing has changed.
  package func setReadOnly(_ name: String, _ isReadOnly: Bool) throws(BlockError) {
    guard let node = node(named: name) as? any ReopenableNode, node.isReadOnly != isReadOnly else {
      return
    }
    let file = node.child("file").flatMap { child -> (any ReopenableNode)? in
      guard let entry = entry(named: child.name), !entry.isOwnedByMonitor,
        entry.users.allSatisfy({ $0.holder == .node(name) })
      else { return nil }
      return child as? any ReopenableNode
    }
    if isReadOnly {
      try node.setReadOnly(true)
      try? file?.setReadOnly(true)
    } else {
      try file?.setReadOnly(false)
      do throws(BlockError) { try node.setReadOnly(false) } catch {
        try? file?.setReadOnly(true)
        throw error
      }
    }
    state.withLock { state in
      for changed in [name, file?.name].compactMap(\.self) {
        state.entries[changed]?.settings.isReadOnly = isReadOnly
      }
    }
    try changeUsers(of: name) { _ in }
  }

  /// Opens an image that nobody uses anew, with `base` as its backing file (nil: with none).
  package func setBacking(of name: String, to base: (any BlockNode)?) throws(BlockError) {
    guard let entry = entry(named: name), let image = entry.node as? Qcow2Node else {
      throw BlockError(ENOTSUP, "The overlay does not support backing images")
    }
    guard entry.users.isEmpty else { throw BlockError(EBUSY, "The overlay is already in use") }
    guard let file = image.child("file") else { return }
    let old = image.child("backing")
    let dataFile = image.child("data-file")
    try image.close()
    func reopen(_ backing: (any BlockNode)?) throws(BlockError) -> Qcow2Node {
      try Qcow2Node.open(
        name: name, file: file, backing: backing, dataFile: dataFile, options: image.options)
    }
    let new: Qcow2Node
    do throws(BlockError) { new = try reopen(base) } catch {
      if let again = try? reopen(old) { exchange(name, again) }
      throw error
    }
    exchange(name, new)
    if let old { try changeUsers(of: old.name) { $0.removeAll { $0.holder == .node(name) } } }
    if let base {
      try changeUsers(of: base.name) { users in
        users.append(
          NodeUse(
            holder: .node(name), role: "backing", description: "node '\(name)'", used: [],
            shared: .all))
      }
    }
    try changeUsers(of: name) { _ in }
    if let old { try releaseIfUnused(old.name) }
  }

  private func exchange(_ name: String, _ node: any BlockNode) {
    state.withLock { state in
      guard let old = state.entries[name] else { return }
      var new = Entry(
        node: node, settings: old.settings, filename: old.filename, options: old.options)
      new.isOwnedByMonitor = old.isOwnedByMonitor
      new.backingFile = old.backingFile
      new.backingFormat = old.backingFormat
      new.users = old.users
      new.blockers = old.blockers
      state.entries[name] = new
    }
  }

  /// The image's header has another backing file now.
  package func noteBackingFile(of name: String, _ file: String?, format: String?) {
    state.withLock { state in
      state.entries[name]?.backingFile = file
      state.entries[name]?.backingFormat = format
    }
  }

  /// Lets all users of one node but `to` itself use another.
  private func moveUsers(from: String, to: String) throws(BlockError) {
    let parents: Result<[(any BlockParent, String)], BlockError> = state.withLock { state in
      Result { () throws(BlockError) in
        guard let old = state.entries[from], state.entries[to] != nil else { return [] }
        let before = state
        let moving = old.users.filter { $0.holder != .node(to) }
        var parents: [(any BlockParent, String)] = []
        for use in moving {
          guard case .node(let name) = use.holder else { continue }
          guard let parent = state.entries[name]?.node as? any BlockParent else {
            throw BlockError(EBUSY, "Node '\(from)' is busy: it is used by node '\(name)'")
          }
          parents.append((parent, use.role))
        }
        state.entries[from]?.users.removeAll { $0.holder != .node(to) }
        state.entries[to]?.users += moving
        try BlockGraph.applyPermissions(&state, from: [from, to], orRestore: before)
        return parents
      }
    }
    let target = node(named: to)
    guard let target else { return }
    for (parent, role) in try parents.get() { _ = parent.replaceChild(role, with: target) }
    for backend in backends where backend.node?.name == from { backend.setNode(target) }
  }

  // MARK: Temporary overlays

  /// Opens a new image in the folder for temporary files over `base`, gone with its last user (`snapshot=on`). Throws.
  package func openTemporaryOverlay(
    over base: any BlockNode, settings: NodeSettings = NodeSettings()
  ) throws(BlockError) -> any BlockNode {
    let path: String
    do throws(SystemError) { path = try BlockFile.makeTemporary() } catch {
      throw BlockError(error, "Could not get temporary filename")
    }
    // The open file is all that is needed.
    defer { FileDescriptor.remove(path) }
    var below = settings
    below.isReadOnly = false
    below.isAutoReadOnly = false
    // What is lost with the process needs no disk.
    below.cache = CacheMode(isDirect: false, ignoresFlushes: true)
    below.unmaps = true
    let file = try openFile(path, settings: below)
    do throws(BlockError) {
      try Qcow2Image.create(on: file, Qcow2CreateOptions(size: base.length))
    } catch {
      try? releaseIfUnused(file.name)
      throw error
    }
    try releaseIfUnused(file.name)
    return try open(
      path, format: "qcow2", options: ["backing": .string(base.name)], settings: below)
  }

  // MARK: Creation

  /// Makes or empties the file of a new image, and gives it a size. Devices keep theirs, which must be enough. Throws in QEMU's words.
  package func createFile(
    _ filename: String, size: UInt64, _ preallocation: Preallocation = .off
  ) throws(BlockError) {
    var path = filename
    if let scheme = FileName.scheme(of: filename) {
      guard scheme == "file" else {
        throw BlockError(EINVAL, "Unknown protocol '\(scheme)'")
      }
      path = String(filename.dropFirst(5))
    }
    guard size <= UInt64(Int64.max) else { throw BlockError(EFBIG, "Image size is too large") }
    let kind = PathKind.of(path)
    if kind == .device {
      let device = try FileNode(
        name: makeName(), driver: "host_device", path: path, settings: NodeSettings())
      unreserve(device.name)
      if device.length < size {
        throw BlockError(ENOSPC, "The device '\(path)' is too small for the image")
      }
      try device.close()
      return
    }
    var options = BlockFile.Options(isWritable: true)
    options.creates = true
    let opened: BlockFile
    do throws(SystemError) { opened = try BlockFile(path, options) } catch {
      throw BlockError(error, "Could not create '\(path)'")
    }
    guard opened.kind == .regular else {
      throw BlockError(EINVAL, "'file' driver requires '\(path)' to be a regular file")
    }
    let node = FileNode(name: makeName(), opened)
    unreserve(node.name)
    try node.setPermissions(
      [.write, .resize], shared: BlockPermissions.all.subtracting(.resize))
    defer { try? node.close() }
    try node.truncate(to: 0, .off)
    try node.truncate(to: size, preallocation)
  }
}
