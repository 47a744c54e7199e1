// What -drive, -hda and the like, and -blockdev ask for. Nothing is opened here.

package import JSON
package import QAPI

/// One drive of the command line: what `-drive`, `-hda`, `-cdrom` or an image alone asks for.
package struct DriveConfiguration: Sendable, Equatable {
  /// How the guest gets at it (`if=`).
  package enum Interface: String, Sendable, CaseIterable {
    case none, ide, scsi, floppy, pflash, mtd, sd, virtio, xen

    /// Drives on one bus; nil for no limit.
    package var unitsPerBus: Int? {
      switch self {
      case .ide: 2
      case .scsi: 7
      default: nil
      }
    }
  }

  /// What happens after a failed access (`werror=`, `rerror=`).
  package enum ErrorAction: String, Sendable {
    /// The guest is not told.
    case ignore
    /// The guest is told.
    case report
    /// The machine stops; the access is tried again when it goes on.
    case stop
    /// Stops when space is lacking and tells the guest otherwise.
    case enospc
  }

  /// Name of the drive; unique.
  package var id: String
  package var interface: Interface
  package var bus: Int
  package var unit: Int
  /// `media=cdrom`.
  package var isCDROM: Bool
  /// `file=`: a name, or `json:` and a node's options. Nil together with empty `options`: a drive without a medium.
  package var filename: String?
  /// The other options of the node, as `blockdev-add` names and nests them, values as written (`driver` is `format=`'s as well).
  package var options: JSONObject
  package var isReadOnly: Bool
  /// Writes go to a temporary file and are forgotten.
  package var isSnapshot: Bool
  /// Writes may stay in caches until the guest flushes (`cache.writeback`).
  package var writesBack: Bool
  package var detectZeroes: BlockdevDetectZeroesOptions
  /// `werror=`; nil: the device's default.
  package var writeErrors: ErrorAction?
  /// `rerror=`; nil: the device's default.
  package var readErrors: ErrorAction?
  package var throttling: ThrottleConfiguration
  /// Refused requests count in statistics (`stats-account-invalid`).
  package var accountsInvalid: Bool
  /// Failed requests count in statistics (`stats-account-failed`).
  package var accountsFailed: Bool
  /// The optical drive that the board has by default: no error where a board cannot have it.
  package var isDefault: Bool
  /// The option it came from.
  package var origin: OptionOrigin

  /// Has no medium.
  package var isEmpty: Bool { (filename ?? "").isEmpty && options.isEmpty }
  /// As `index=` counts.
  package var index: Int { bus * (interface.unitsPerBus ?? 1) + unit }
}

/// `throttling.*`: limits of a drive; 0 is none. Burst lengths are seconds.
package struct ThrottleConfiguration: Sendable, Equatable {
  /// Limits of one kind.
  package struct Limit: Sendable, Equatable {
    package var average: UInt64 = 0
    package var burst: UInt64 = 0
    package var burstLength: UInt64 = 1

    package init(average: UInt64 = 0, burst: UInt64 = 0, burstLength: UInt64 = 1) {
      self.average = average
      self.burst = burst
      self.burstLength = burstLength
    }
  }

  package var bytes = Limit()
  package var bytesRead = Limit()
  package var bytesWritten = Limit()
  package var operations = Limit()
  package var reads = Limit()
  package var writes = Limit()
  /// Bytes that count as one operation; 0 counts each as one.
  package var operationSize: UInt64 = 0
  /// Drives of one group share the limits; nil: a group of the drive's own.
  package var group: String?

  package init() {}

  private var all: [Limit] { [bytes, bytesRead, bytesWritten, operations, reads, writes] }

  /// Whether anything is limited.
  package var isEnabled: Bool { all.contains { $0.average > 0 } }

  /// What is wrong, in QEMU's words; nil when nothing is.
  package var fault: String? {
    func conflicts(_ value: (Limit) -> UInt64) -> Bool {
      (value(bytes) > 0 && (value(bytesRead) > 0 || value(bytesWritten) > 0))
        || (value(operations) > 0 && (value(reads) > 0 || value(writes) > 0))
    }
    if conflicts(\.average) || conflicts(\.burst) {
      return
        "bps/iops/max total values and read/write values cannot be used at the same time"
    }
    if operationSize > 0, [operations, reads, writes].allSatisfy({ $0.average == 0 }) {
      return "iops size requires an iops value to be set"
    }
    let largest: UInt64 = 1_000_000_000_000_000
    for limit in all {
      if limit.average > largest || limit.burst > largest {
        return "bps/iops/max values must be within [0, \(largest)]"
      }
      if limit.burstLength == 0 { return "the burst length cannot be 0" }
      if limit.burstLength > 1, limit.burst == 0 {
        return "burst length set without burst rate"
      }
      let (product, overflow) = limit.burst.multipliedReportingOverflow(by: limit.burstLength)
      if limit.burst > 0, overflow || product > largest {
        return "burst length too high for this burst rate"
      }
      if limit.burst > 0, limit.average == 0 {
        return "bps_max/iops_max require corresponding bps/iops values"
      }
      if limit.burst > 0, limit.burst < limit.average {
        return "bps_max/iops_max cannot be lower than bps/iops"
      }
    }
    return nil
  }
}

/// One `-blockdev`.
package struct BlockdevConfiguration: Sendable, Equatable {
  package var options: BlockdevOptions
  /// The option it came from.
  package var origin: OptionOrigin
}
