package import Block
import Host
import QAPI

extension Machine {
  /// An access to a disk failed.
  func diskFailed(_ failure: BlockIOError, _ backend: BlockBackend) {
    emit(
      .blockIoError(
        device: failure.device, nodeName: failure.nodeName,
        operation: failure.isRead ? .read : .write, action: failure.eventAction,
        nospace: backend.ioStatus == nil ? nil : failure.isNoSpace,
        reason: SystemError(call: "", code: failure.error.code).reason))
    if failure.action == .stop { stopOnDiskError() }
  }

  /// A drive that was added while the machine runs: its failures are heard of.
  package func watch(_ backend: BlockBackend) { drives.events.watch(backend) }

  /// Waits for what disks are doing, and closes them. Blocks; the machine has been torn down.
  package nonisolated static func closeDisks(_ blocks: BlockGraph) {
    for backend in blocks.backends {
      do throws(BlockError) { try backend.remove() } catch { Log.error(error.message) }
    }
    do throws(BlockError) { try blocks.closeAll() } catch { Log.error(error.message) }
  }
}

extension BlockIOError {
  fileprivate var eventAction: QAPI.BlockErrorAction {
    switch action {
    case .report: .report
    case .ignore: .ignore
    case .stop: .stop
    }
  }
}
