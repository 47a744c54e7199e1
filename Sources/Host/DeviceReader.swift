import Glibc

/// Reads bytes of a device or file when somebody asks, without making the main loop wait.
@MainLoop
package final class DeviceReader {
  private let file: FileDescriptor
  private var watch: Watch?
  private var pending: (count: Int, deliver: @MainLoop ([UInt8]) -> Void)?

  /// Opens `path` for reading. Throws `SystemError` for `open`.
  package init(_ path: String) throws(SystemError) {
    file = try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK)
  }

  isolated deinit { watch?.cancel() }

  /// Reads up to `count` bytes; `deliver` gets them from a later turn of the main loop, none at the end or after a failure.
  ///
  /// One read at a time.
  package func read(_ count: Int, _ deliver: @escaping @MainLoop ([UInt8]) -> Void) {
    pending = (count, deliver)
    MainLoop.post { [weak self] in self?.attempt() }
  }

  private func attempt() {
    guard let request = pending else { return }
    var buffer = [UInt8](repeating: 0, count: request.count)
    do throws(SystemError) {
      let count = try file.read(into: &buffer)
      finish(Array(buffer.prefix(count)))
    } catch  where error.code == EAGAIN {
      waitUntilReadable()
    } catch {
      finish([])
    }
  }

  private func finish(_ bytes: [UInt8]) {
    watch?.cancel()
    watch = nil
    let request = pending
    pending = nil
    request?.deliver(bytes)
  }

  private func waitUntilReadable() {
    guard watch == nil else { return }
    do throws(SystemError) {
      watch = try MainLoop.watch(file.rawValue, .readable) { [weak self] _ in self?.attempt() }
    } catch {
      finish([])
    }
  }
}
