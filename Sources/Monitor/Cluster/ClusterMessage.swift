package import Cluster

/// A text between the monitors of two nodes, as frames: cut into pieces that fit on `ctl`, and put together again.
///
/// The argument of each frame: bits 0 to 31 the number of the exchange, bit 62 set in the last piece, bit 63 set in answers.
package enum ClusterMessage {
  /// Bytes of a piece: below the limit of `ctl`, and short enough not to hold up an interrupt behind it.
  package static let pieceSize = 16 << 10
  /// Longest message; the longest reply that there is is a hundredth of it.
  package static let limit = 64 << 20

  static let last: UInt64 = 1 << 62
  static let answer: UInt64 = 1 << 63

  /// The frames of a message.
  package static func frames(
    _ text: [UInt8], number: UInt32, isAnswer: Bool
  ) -> [(header: FrameHeader, body: [UInt8])] {
    var frames: [(header: FrameHeader, body: [UInt8])] = []
    var start = 0
    repeat {
      let end = min(start + pieceSize, text.count)
      let argument = UInt64(number) | (isAnswer ? answer : 0) | (end == text.count ? last : 0)
      frames.append((FrameHeader(.qmpProxy, argument: argument), [UInt8](text[start..<end])))
      start = end
    } while start < text.count
    return frames
  }

  /// Puts the pieces of one node together.
  package struct Assembly: Sendable {
    /// Pieces by number and direction (bit 63).
    private var parts: [UInt64: [UInt8]] = [:]
    private var size = 0

    package init() {}

    /// Takes a piece. Gives the message when it is complete; throws away what is longer than a message may be.
    package mutating func take(
      _ argument: UInt64, _ body: [UInt8]
    ) -> (number: UInt32, isAnswer: Bool, text: [UInt8])? {
      let key = argument & (ClusterMessage.answer | 0xFFFF_FFFF)
      size += body.count
      parts[key, default: []] += body
      if size > ClusterMessage.limit {
        parts = [:]
        size = 0
        return nil
      }
      guard argument & ClusterMessage.last != 0 else { return nil }
      let text = parts.removeValue(forKey: key) ?? []
      size -= text.count
      return (UInt32(truncatingIfNeeded: key), key & ClusterMessage.answer != 0, text)
    }
  }
}
