import Block
import DeviceModel
import Host

/// How devices get their drives.
@MainLoop
struct DriveProperty {
  let graph: BlockGraph
  let events: BlockEvents

  /// The drive, or block node, that a device's property `drive=NAME` names, for that device alone: attach the device to it next.
  ///
  /// `type` is the QOM type that has the property (`virtio-blk-device`, `ide-hd`). Throws with QEMU's sentences.
  func backend(_ name: String, of type: String) throws(DeviceError) -> BlockBackend {
    if let backend = graph.backend(named: name) {
      guard backend.device == nil else {
        throw DeviceError(.busy, "Drive '\(name)' is already in use by another device")
      }
      events.watch(backend)
      return backend
    }
    guard let node = graph.node(named: name) else {
      throw DeviceError(.badValue, "Property '\(type).drive' can't find value '\(name)'")
    }
    let backend = emptyBackend()
    do throws(BlockError) { try backend.insert(node) } catch {
      graph.remove(backend)
      throw DeviceError(.badValue, error.message)
    }
    return backend
  }

  /// A nameless drive without a medium, for a device that was given none (`ide-cd`); queries list it once the device is attached.
  func emptyBackend() -> BlockBackend {
    let backend = BlockBackend(graph)
    events.watch(backend)
    // Only names can be taken.
    try? graph.add(backend)
    return backend
  }

  /// Says what the device does with the disk: `isResizable` when it follows a change of size, `sharesWriting` for `share-rw=on`. Throws when
  /// others' use conflicts.
  func setUse(
    of backend: BlockBackend, isReadOnly: Bool, isResizable: Bool, sharesWriting: Bool = false
  ) throws(DeviceError) {
    var shared: BlockPermissions = [.consistentRead, .writeUnchanged]
    if isResizable { shared.insert(.resize) }
    if sharesWriting { shared.insert(.write) }
    do throws(BlockError) {
      try backend.setPermissions(
        isReadOnly ? .consistentRead : [.consistentRead, .write], shared: shared)
    } catch {
      throw DeviceError(.busy, error.message)
    }
  }

  /// The device is gone and makes no more requests: as with QEMU its drive goes too, and the image closes unless others use it or it is a
  /// node of `-blockdev`. Blocks.
  nonisolated static func end(_ backend: BlockBackend, in graph: BlockGraph) {
    backend.detachDevice()
    graph.remove(backend)
    do throws(BlockError) { try backend.remove() } catch { Log.error(error.message) }
  }

  /// The device has not come into being: a drive of the command line is free for another, a nameless one ends.
  func release(_ backend: BlockBackend) {
    backend.detachDevice()
    guard backend.name.isEmpty else { return }
    graph.remove(backend)
    // The device has no request in flight any more, so this does not wait.
    do throws(BlockError) { try backend.remove() } catch { Log.error(error.message) }
  }
}
