// What a sender must know of a local APIC to find the destinations of a message (Intel SDM vol. 3A, 11.6.2).
// One word, so that it can be published and read without a lock, and broadcast to the other nodes.

/// Routing facts of one local APIC, packed into 64 bits.
package struct APICRoute: Equatable, Sendable, BitwiseCopyable {
  /// Bits 31-0 ID, 39-32 logical ID, 43-40 destination format, 45-44 mode, 46 software enabled.
  package let rawValue: UInt64

  /// The word as read from a table or frame.
  package init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Packs the facts. `logicalID` and `destinationFormat` are those of xAPIC mode.
  package init(
    id: UInt32, logicalID: UInt8, destinationFormat: UInt8, mode: APICMode, softwareEnabled: Bool
  ) {
    rawValue =
      UInt64(id) | UInt64(logicalID) << 32 | UInt64(destinationFormat & 0xF) << 40
      | UInt64(mode.rawValue) << 44 | (softwareEnabled ? 1 << 46 : 0)
  }

  /// A slot without a vCPU: nothing matches.
  package static let absent = APICRoute(rawValue: 0)

  /// APIC ID in the current mode.
  package var id: UInt32 { UInt32(truncatingIfNeeded: rawValue) }
  /// Logical ID of xAPIC mode.
  package var logicalID: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 32) }
  /// 0xF flat, 0 cluster; other values match nothing.
  package var destinationFormat: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 40 & 0xF) }
  /// Current mode; `.disabled` also for an absent vCPU.
  package var mode: APICMode {
    APICMode(rawValue: UInt8(truncatingIfNeeded: rawValue >> 44 & 3)) ?? .disabled
  }
  /// The APIC takes fixed and lowest-priority interrupts.
  package var softwareEnabled: Bool { rawValue & 1 << 46 != 0 }

  /// True when the destination field of `message` addresses this APIC. `initialID` is its x2APIC ID: IDs
  /// above 0xFF can be addressed in xAPIC mode too, or such processors could not be started.
  package func matches(_ message: InterruptMessage, initialID: UInt32) -> Bool {
    guard mode != .disabled else { return false }
    if message.isBroadcast { return true }
    let destination = message.destination
    switch message.destinationMode {
    case .physical:
      return destination == id || destination > 0xFF && destination == initialID
    case .logical:
      return mode == .x2APIC
        ? matchesExtendedLogical(destination)
        : matchesLogical(UInt8(truncatingIfNeeded: destination))
    }
  }

  /// x2APIC: cluster in bits 31-16, one bit per member in bits 15-0 (SDM 11.12.10.2).
  private func matchesExtendedLogical(_ destination: UInt32) -> Bool {
    id >> 4 & 0xFFFF == destination >> 16 && destination & 1 << (id & 0xF) != 0
  }

  /// xAPIC flat or cluster model (SDM 11.6.2.2).
  private func matchesLogical(_ destination: UInt8) -> Bool {
    switch destinationFormat {
    case 0xF: return logicalID & destination != 0
    case 0: return logicalID >> 4 == destination >> 4 && logicalID & destination & 0xF != 0
    default: return false
    }
  }
}
