package import Block
import Glibc
import Host
import JSON
package import Options
import QAPI

/// Opens what `-blockdev` and `-drive` ask for.
package enum DriveOpener {
  /// Opens all nodes, then all drives, in order. Blocks. Throws the first failure with the option at fault.
  package static func open(
    _ configuration: LaunchConfiguration, in graph: BlockGraph
  ) throws(OptionError) {
    for node in configuration.blockdevs {
      do throws(BlockError) {
        guard case .object(let options) = node.options.encoded else { continue }
        try graph.add(options)
      } catch {
        throw failure(error, node.origin)
      }
    }
    for drive in configuration.drives {
      do throws(BlockError) {
        _ = try open(drive, in: graph)
      } catch {
        throw failure(error, drive.origin)
      }
    }
  }

  /// What the user reads: who else has the image, above all.
  private static func failure(_ error: BlockError, _ origin: OptionOrigin) -> OptionError {
    OptionError(.failed, origin, error.message, hints: error.hintLines)
  }

  /// Opens one drive and makes it known (`drive_add` as well). Blocks.
  package static func open(
    _ drive: DriveConfiguration, in graph: BlockGraph
  ) throws(BlockError) -> BlockBackend {
    let backend = BlockBackend(
      graph, name: drive.id,
      used: drive.isReadOnly ? .consistentRead : [.consistentRead, .write])
    backend.hasWriteCache = drive.writesBack
    backend.setErrorPolicy(
      read: BlockErrorPolicy(drive.readErrors) ?? .report,
      write: BlockErrorPolicy(drive.writeErrors) ?? .enospc)
    backend.changeStatistics { statistics in
      statistics.countsInvalid = drive.accountsInvalid
      statistics.countsFailed = drive.accountsFailed
    }
    if drive.throttling.isEnabled {
      let group = drive.throttling.group ?? drive.id
      backend.setThrottleGroup(group)
      try backend.throttleGroup?.configure(Block.ThrottleLimits(drive.throttling))
    }
    if !drive.isEmpty { try insertMedium(of: drive, into: backend, graph) }
    do throws(BlockError) {
      try graph.add(backend)
    } catch {
      try? backend.remove()
      throw error
    }
    return backend
  }

  private static func insertMedium(
    of drive: DriveConfiguration, into backend: BlockBackend, _ graph: BlockGraph
  ) throws(BlockError) {
    var options = drive.options
    // How files are read is ours to choose; what is impossible is refused all the same.
    if options["aio"]?.stringValue == "native",
      options["cache"]?["direct"].flatMap({ $0.stringValue.flatMap(OptionText.boolean) }) != true
    {
      throw BlockError(
        EINVAL,
        "aio=native was specified, but it requires cache.direct=on, which was not specified.")
    }
    options["aio"] = nil
    var settings = NodeSettings()
    settings.isReadOnly = drive.isReadOnly || drive.isSnapshot
    settings.isAutoReadOnly = true
    if !drive.isSnapshot {
      settings.detectZeroes = ZeroDetection(rawValue: drive.detectZeroes.rawValue) ?? .off
    }
    let filename = drive.filename.flatMap { $0.isEmpty ? nil : $0 }
    let image = try graph.open(filename, options: options, settings: settings)
    do throws(BlockError) {
      guard drive.isSnapshot else { return try backend.insert(image) }
      settings.isReadOnly = false
      settings.detectZeroes = ZeroDetection(rawValue: drive.detectZeroes.rawValue) ?? .off
      try backend.insert(try graph.openTemporaryOverlay(over: image, settings: settings))
    } catch {
      try? graph.releaseIfUnused(image.name)
      throw error
    }
  }
}

extension BlockErrorPolicy {
  /// Nil for what is left to the device.
  fileprivate init?(_ action: DriveConfiguration.ErrorAction?) {
    guard let action else { return nil }
    self.init(rawValue: action.rawValue)
  }
}

extension Block.ThrottleLimits {
  /// The limits of a drive.
  package init(_ options: ThrottleConfiguration) {
    func bucket(_ limit: ThrottleConfiguration.Limit) -> ThrottleBucket {
      ThrottleBucket(
        average: limit.average, maximum: limit.burst, burstLength: limit.burstLength)
    }
    self.init()
    bytesTotal = bucket(options.bytes)
    bytesRead = bucket(options.bytesRead)
    bytesWrite = bucket(options.bytesWritten)
    operationsTotal = bucket(options.operations)
    operationsRead = bucket(options.reads)
    operationsWrite = bucket(options.writes)
    operationSize = options.operationSize
  }
}
