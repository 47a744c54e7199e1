import Glibc
import Synchronization

extension BlockGraph {
  /// An overlay that has taken a node's place, for `undo`.
  package struct OverlayChange: Sendable {
    let overlay: Qcow2Node
    let base: any BlockNode
  }

  /// Puts `overlay`, which has no backing file yet, in the place of `base` for all users of that; `base` becomes its backing file. Requests of
  /// the users must be held off (`BlockBackend.beginDrain` of `drained(for:)`). Throws, and nothing has changed, in QEMU's words.
  package func append(
    _ overlay: any BlockNode, over base: any BlockNode
  ) throws(BlockError) -> OverlayChange {
    guard let image = overlay as? Qcow2Node else {
      throw BlockError(ENOTSUP, "The overlay does not support backing images")
    }
    image.setBacking(base)
    do throws(BlockError) {
      try moveUsers(from: base, to: overlay, addingBacking: true)
    } catch {
      image.setBacking(nil)
      throw error
    }
    return OverlayChange(overlay: image, base: base)
  }

  /// Puts the node below back in its place. Requests are held off as for `append`.
  package func undo(_ change: OverlayChange) {
    do throws(BlockError) {
      change.overlay.setBacking(nil)
      try moveUsers(from: change.overlay, to: change.base, addingBacking: false)
    } catch {
      // The users were there before, so they fit.
      showWarning("cannot undo a snapshot: \(error.message)")
    }
  }

  /// The backends whose requests reach a node.
  package func drained(for node: any BlockNode) -> [BlockBackend] {
    backends.filter { backend in
      guard let top = backend.node else { return false }
      return BlockGraph.reaches(top, node.name)
    }
  }

  private static func reaches(_ top: any BlockNode, _ name: String) -> Bool {
    var pending = [top]
    while let next = pending.popLast() {
      if next.name == name { return true }
      pending += next.children.map(\.node)
    }
    return false
  }

  /// Moves all users of a node to another. With `addingBacking` the other one becomes a user of the first, else it ceases to be.
  private func moveUsers(
    from old: any BlockNode, to new: any BlockNode, addingBacking: Bool
  ) throws(BlockError) {
    let (from, to) = (old.name, new.name)
    let result: Result<[NodeUse], BlockError> = state.withLock { state in
      Result { () throws(BlockError) in
        let before = state
        // The overlay's own use of its backing file is none of those that move.
        let staying: (NodeUse) -> Bool = { addingBacking && $0.holder == .node(to) }
        var users = state.entries[from]?.users ?? []
        let moved = users.filter { !staying($0) }
        users.removeAll { !staying($0) }
        if addingBacking {
          users.append(
            NodeUse(holder: .node(to), role: "backing", description: "node '\(to)'"))
        } else {
          state.entries[to]?.users.removeAll { $0.holder == .node(from) && $0.role == "backing" }
        }
        state.entries[from]?.users = users
        state.entries[to]?.users += moved
        do throws(BlockError) {
          try BlockGraph.applyPermissions(&state, from: [from, to])
        } catch {
          BlockGraph.restore(&state, before)
          throw error
        }
        return moved
      }
    }
    for use in try result.get() {
      switch use.holder {
      case .node(let parent):
        if let parent = node(named: parent) as? any BlockParent {
          _ = parent.replaceChild(use.role, with: new)
        }
      case .backend(let id): backends.first { $0.id == id }?.setNode(new)
      }
    }
  }
}
