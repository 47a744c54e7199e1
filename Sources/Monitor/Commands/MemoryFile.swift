import Glibc
import Host
import QAPI

/// A file that guest memory is saved to, piece by piece (`memsave`, `pmemsave`).
///
/// Opening and writing may block (a FIFO opens when it has a reader), so they have threads of their own; reading guest memory
/// stays on the main loop, a piece in each turn.
final class MemoryFile: Sendable {
  /// Bytes that are read in one turn of the main loop.
  private static let pieceSize = 1 << 18

  private let file: FileDescriptor

  private init(_ path: String, _ flags: Int32 = 0) throws(SystemError) {
    file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC | flags)
    if flags != 0 { try file.setNonBlocking(false) }
  }

  /// Opens a file at once, and a FIFO when it has a reader.
  @MainLoop
  private static func open(_ path: String) async throws -> MemoryFile {
    do throws(SystemError) { return try MemoryFile(path, O_NONBLOCK) } catch {
      if error.code != ENXIO { throw error }
    }
    return try await HostThread.value(name: "save") { try MemoryFile(path) }
  }

  private func write(_ bytes: [UInt8]) throws(SystemError) {
    var written = 0
    while written < bytes.count { written += try file.write(bytes, from: written) }
  }

  /// Writes `size` bytes, which `read` gives piece by piece, to a file. The client waits, nobody else does.
  @MainLoop
  static func save(
    _ size: Int, to path: String,
    read: @MainLoop (_ offset: Int, _ count: Int) throws(QAPIError) -> [UInt8]
  ) async throws(QAPIError) {
    guard size >= 0 else { throw .expects("size", "a size that is not negative") }
    do {
      let file = try await open(path)
      var offset = 0
      while offset < size {
        let bytes = try read(offset, min(size - offset, pieceSize))
        try await HostThread.value(name: "save") { try file.write(bytes) }
        offset += bytes.count
      }
    } catch let error as QAPIError {
      throw error
    } catch let error as SystemError where error.call == "open" {
      throw QAPIError("Could not open '\(path)': \(error.reason)")
    } catch {
      throw QAPIError("writing memory to '\(path)' failed")
    }
  }
}
