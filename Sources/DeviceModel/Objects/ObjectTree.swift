package import Host
import JSON

/// Finds objects by path: `/machine/peripheral/net0` from the root, or as many of the last parts as tell an object from all others.
@MainLoop
package struct ObjectTree {
  /// What a path leads to.
  package enum Match {
    /// The object, and its own path.
    case found(ObjectNode, path: String)
    case ambiguous
    case none
  }

  package let root: ObjectNode

  package init(root: ObjectNode) { self.root = root }

  /// Follows a path, through links too.
  package func resolve(_ path: String) -> Match {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
    if path.hasPrefix("/") {
      guard let found = walk(parts[...], from: root, at: "", links: 8) else { return .none }
      return .found(found.node, path: found.path)
    }
    var found: (node: ObjectNode, path: String)?
    let wanted = path.isEmpty ? [] : parts[...]
    guard search(wanted, below: root, at: "", &found) else { return .ambiguous }
    return found.map { .found($0.node, path: $0.path) } ?? .none
  }

  /// The object at an absolute or partial path; nil when there is none, or more than one.
  package subscript(path: String) -> ObjectNode? {
    if case .found(let node, _) = resolve(path) { return node }
    return nil
  }

  /// `links` bounds how many links may be followed: they can form circles.
  private func walk(
    _ parts: ArraySlice<String>, from start: ObjectNode, at path: String, links: Int
  ) -> (node: ObjectNode, path: String)? {
    var (node, path) = (start, path)
    for part in parts where !part.isEmpty {
      if let next = node.child(part) {
        node = next
        path += "/\(part)"
        continue
      }
      guard let property = node.property(part), property.isLink, links > 0,
        let target = (try? property.get?())?.stringValue, target.hasPrefix("/"),
        let next = walk(
          target.split(separator: "/").map(String.init)[...], from: root, at: "",
          links: links - 1)
      else { return nil }
      (node, path) = next
    }
    return (node, path.isEmpty ? "/" : path)
  }

  /// Looks everywhere. False as soon as there are two.
  private func search(
    _ parts: ArraySlice<String>, below node: ObjectNode, at path: String,
    _ found: inout (node: ObjectNode, path: String)?
  ) -> Bool {
    if let match = walk(parts, from: node, at: path, links: 8) {
      if found != nil { return false }
      found = match
    }
    for child in node.children {
      guard search(parts, below: child.node, at: "\(path)/\(child.name)", &found) else {
        return false
      }
    }
    return true
  }
}
