import Glibc
import Host
import Synchronization

/// Text for standard output, collected and written in large pieces: a map has hundreds of thousands of lines.
package struct TextOutput {
  package private(set) var bytes: [UInt8] = []

  package init() {}

  package mutating func text(_ text: String) { bytes.append(contentsOf: text.utf8) }

  package mutating func line(_ text: String = "") {
    bytes.append(contentsOf: text.utf8)
    bytes.append(UInt8(ascii: "\n"))
    flushWhenLarge()
  }

  package mutating func raw(_ more: [UInt8]) { bytes.append(contentsOf: more) }

  /// A number in decimal.
  package mutating func decimal(_ number: UInt64) {
    if number < 10 { return bytes.append(UInt8(ascii: "0") + UInt8(number)) }
    var digits = 0
    var rest = number
    while rest > 0 {
      digits += 1
      rest /= 10
      bytes.append(0)
    }
    rest = number
    var index = bytes.count
    while digits > 0 {
      index -= 1
      digits -= 1
      bytes[index] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
      rest /= 10
    }
  }

  /// Writes what was collected.
  package mutating func flush() {
    Standard.write(bytes, to: 1)
    bytes.removeAll(keepingCapacity: true)
  }

  package mutating func flushWhenLarge() {
    if bytes.count >= 1 << 16 { flush() }
  }
}

/// The program's standard streams.
package enum Standard {
  /// Writes all bytes; when nobody reads any more, there is nothing left to say.
  package static func write(_ bytes: [UInt8], to descriptor: Int32) {
    let target = FileDescriptor(owning: descriptor)
    var done = 0
    while done < bytes.count {
      do throws(SystemError) {
        done += try target.write(bytes, from: done)
      } catch {
        guard error.code == EAGAIN else { break }
        Descriptors.waitWritable(descriptor, milliseconds: -1)
      }
    }
    _ = target.release()
  }

  package static func print(_ line: String) { write(Array((line + "\n").utf8), to: 1) }

  /// A line on standard error behind the program's name.
  package static func complain(_ line: String) {
    write(Array(("goliath-img: " + line + "\n").utf8), to: 2)
  }

  /// Text on standard error as it is.
  package static func note(_ text: String) { write(Array(text.utf8), to: 2) }

  /// Prints an error and its hint.
  package static func complain(_ error: ToolError) {
    for line in error.lines { complain(line) }
    if !error.hint.isEmpty { note(error.hint) }
  }
}
