import Host

/// Guesses from 4 KiB of a cluster whether compressing it is worth the time.
///
/// Encrypted and already compressed data has nearly evenly distributed bytes and repeats nothing. A wrong guess costs room, never data.
struct CompressionSampler {
  private var counts = [UInt32](repeating: 0, count: 256)
  private var seen = [UInt32](repeating: 0, count: 4096)

  private static let sampleSize = 4096
  private static let spotCount = 4
  /// Sum of the squares of the 256 counts: 65,536 when all are equal, about 69,600 for random bytes, above 100,000 for text and programs.
  private static let evenLimit: UInt64 = 73_000
  /// Sequences of four bytes that come again, of 4,096.
  private static let repeatLimit = 12

  mutating func isCompressible(_ memory: IOVector) -> Bool {
    guard memory.count >= CompressionSampler.sampleSize * 2 else { return true }
    for index in 0..<256 { counts[index] = 0 }
    for index in 0..<4096 { seen[index] = 0 }
    var repeats = 0
    let spot = CompressionSampler.sampleSize / CompressionSampler.spotCount
    for number in 0..<CompressionSampler.spotCount {
      let bytes = memory.bytes(memory.count / CompressionSampler.spotCount * number, spot)
      var window: UInt32 = 0
      for index in bytes.indices {
        counts[Int(bytes[index])] &+= 1
        window = window << 8 | UInt32(bytes[index])
        guard index >= 3 else { continue }
        let place = Int((window &* 0x9E37_79B1) >> 20)
        if seen[place] == window { repeats += 1 }
        seen[place] = window
      }
    }
    if repeats > CompressionSampler.repeatLimit { return true }
    var sum: UInt64 = 0
    for count in counts { sum += UInt64(count) * UInt64(count) }
    return sum > CompressionSampler.evenLimit
  }
}
