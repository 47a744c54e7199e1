import Shm

/// One command of the script by which firmware places tables (the linker-loader that SeaBIOS and OVMF implement: 128 bytes each,
/// little-endian, in the fw_cfg file `etc/table-loader`).
enum TableLoaderCommand: Equatable, Sendable {
  enum Zone: UInt8, Sendable {
    case high = 1
    /// Below 1 MiB, where the root pointer is looked for.
    case low = 2
  }
  /// Reserve memory for a file and copy it there.
  case allocate(file: String, alignment: UInt32, zone: Zone)
  /// Add the address of `source` to the number of `size` bytes at `offset` of `destination`.
  case addPointer(destination: String, source: String, offset: Int, size: Int)
  /// Make `length` bytes from `start` add up to zero by the byte at `offset`.
  case addChecksum(file: String, offset: Int, start: Int, length: Int)

  func encoded() -> [UInt8] {
    func name(_ text: String) -> [UInt8] {
      let bytes = Array(text.utf8.prefix(55))
      return bytes + [UInt8](repeating: 0, count: 56 - bytes.count)
    }
    var out: [UInt8] = []
    switch self {
    case .allocate(let file, let alignment, let zone):
      out.append32(1)
      out += name(file)
      out.append32(alignment)
      out.append(zone.rawValue)
    case .addPointer(let destination, let source, let offset, let size):
      out.append32(2)
      out += name(destination) + name(source)
      out.append32(UInt32(truncatingIfNeeded: offset))
      out.append(UInt8(truncatingIfNeeded: size))
    case .addChecksum(let file, let offset, let start, let length):
      out.append32(3)
      out += name(file)
      for value in [offset, start, length] { out.append32(UInt32(truncatingIfNeeded: value)) }
    }
    return out + [UInt8](repeating: 0, count: 128 - out.count)
  }

  /// Carries out a script on files at given addresses, as firmware does.
  static func run(
    _ script: [TableLoaderCommand], _ files: inout [String: [UInt8]], at addresses: [String: UInt64]
  ) {
    for command in script {
      switch command {
      case .allocate: break
      case .addPointer(let destination, let source, let offset, let size):
        guard var bytes = files[destination], let address = addresses[source],
          offset >= 0, offset + size <= bytes.count
        else { continue }
        var value = address
        for index in 0..<size { value &+= UInt64(bytes[offset + index]) << UInt64(index * 8) }
        for index in 0..<size {
          bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        }
        files[destination] = bytes
      case .addChecksum(let file, let offset, let start, let length):
        guard var bytes = files[file], start >= 0, length >= 0, start + length <= bytes.count,
          bytes.indices.contains(offset)
        else { continue }
        bytes[offset] = 0
        bytes[offset] = 0 &- bytes[start..<start + length].reduce(0, &+)
        files[file] = bytes
      }
    }
  }
}
