import Host

/// What passes through a transport, for metrics (distributed.md, section 13).
package final class FrameCounters: Sendable {
  /// Which way a frame goes.
  package enum Direction: Int, Sendable, CaseIterable { case sent = 0, received = 1 }

  // Frames by direction and type, then bytes by direction and stream, then single ones.
  private static let types = 256
  private let cells = CounterTable(count: 2 * FrameCounters.types + 4 + 4)
  private var bytesBase: Int { 2 * FrameCounters.types }
  private var singleBase: Int { bytesBase + 4 }

  package init() {}

  @inline(__always)
  func count(_ direction: Direction, _ header: borrowing FrameHeader) {
    cells.add(to: direction.rawValue * FrameCounters.types + Int(header.type.rawValue & 0xFF))
    cells.add(
      UInt64(header.length) + UInt64(FrameHeader.size),
      to: bytesBase + direction.rawValue * 2 + Int(header.type.stream.rawValue))
  }

  func countOldEpoch() { cells.add(to: singleBase) }
  func countProtocolError() { cells.add(to: singleBase + 1) }
  func queued(_ stream: StreamKind, bytes: Int) {
    cells.add(UInt64(max(bytes, 0)), to: singleBase + 2 + Int(stream.rawValue))
  }
  func unqueued(_ stream: StreamKind, bytes: Int) {
    cells.subtract(UInt64(max(bytes, 0)), from: singleBase + 2 + Int(stream.rawValue))
  }

  /// Frames of a type (`goliath_frames_total`).
  package func frames(_ direction: Direction, _ type: FrameType) -> UInt64 {
    cells[direction.rawValue * FrameCounters.types + Int(type.rawValue & 0xFF)]
  }

  /// Bytes with headers, before encryption (`goliath_bytes_total`).
  package func bytes(_ direction: Direction, _ stream: StreamKind) -> UInt64 {
    cells[bytesBase + direction.rawValue * 2 + Int(stream.rawValue)]
  }

  /// Frames of an older epoch, which were dropped (`goliath_dropped_epoch_frames_total`).
  package var oldEpochFrames: UInt64 { cells[singleBase] }
  /// Frames that broke the protocol (`goliath_protocol_errors_total`).
  package var protocolErrors: UInt64 { cells[singleBase + 1] }
  /// Bytes that wait to be taken by the connections now (`goliath_queue_depth`).
  package func queueDepth(_ stream: StreamKind) -> UInt64 {
    cells[singleBase + 2 + Int(stream.rawValue)]
  }
}
