import Glibc
import Synchronization

extension BlockGraph {
  /// Makes the backend known by name and to queries (`query-block`). Throws in QEMU's words when the name is taken.
  package func add(_ backend: BlockBackend) throws(BlockError) {
    let result: Result<Void, BlockError> = state.withLock { state in
      Result { () throws(BlockError) in
        if !backend.name.isEmpty {
          if state.backends.contains(where: { $0.name == backend.name }) {
            throw BlockError(EEXIST, "Device with id '\(backend.name)' already exists")
          }
          if state.entries[backend.name] != nil {
            throw BlockError(
              EEXIST, "Device name '\(backend.name)' conflicts with an existing node name")
          }
        }
        state.backends.append(backend)
      }
    }
    try result.get()
  }

  /// Forgets a backend.
  package func remove(_ backend: BlockBackend) {
    state.withLock { $0.backends.removeAll { $0 === backend } }
  }

  /// The backends in order of creation.
  package var backends: [BlockBackend] { state.withLock { $0.backends } }

  /// The backend of that name.
  package func backend(named name: String) -> BlockBackend? {
    guard !name.isEmpty else { return nil }
    return state.withLock { $0.backends.first { $0.name == name } }
  }

  /// The backend of the device with that id (`blockdev-change-medium id=`).
  package func backend(ofDevice id: String) -> BlockBackend? {
    backends.first { $0.deviceID == id || $0.devicePath == id }
  }

  /// The backends that hold a node.
  package func backends(on node: any BlockNode) -> [BlockBackend] {
    backends.filter { $0.node?.name == node.name }
  }
}
