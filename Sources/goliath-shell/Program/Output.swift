import Glibc
import Host

/// Standard output and standard error. While a line is being edited, text goes above it.
final class Output {
  /// The editor, once there is one.
  var editor: LineEditor?
  /// Errors go where answers go: a person reads both.
  let isInteractive: Bool

  init(isInteractive: Bool) { self.isInteractive = isInteractive }

  /// Prints lines.
  func print(_ lines: [String]) { write(lines, to: 1) }

  /// Prints lines about something that went wrong.
  func complain(_ lines: [String]) { write(lines, to: isInteractive ? 1 : 2) }

  private func write(_ lines: [String], to descriptor: Int32) {
    if lines.isEmpty { return }
    let bytes = Array((lines.joined(separator: "\n") + "\n").utf8)
    guard let editor, editor.isEditing else { return write(bytes, descriptor) }
    editor.above { write(bytes, descriptor) }
  }

  /// Writes all bytes. When nobody reads any more there is nothing left to do.
  private func write(_ bytes: [UInt8], _ descriptor: Int32) {
    let target = FileDescriptor(owning: descriptor)
    var done = 0
    while done < bytes.count {
      do throws(SystemError) {
        done += try target.write(bytes, from: done)
      } catch {
        if error.code == EAGAIN {
          Descriptors.waitWritable(descriptor, milliseconds: -1)
          continue
        }
        exit(error.code == EPIPE ? 0 : ExitStatus.commandFailed.rawValue)
      }
    }
    _ = target.release()
  }
}
