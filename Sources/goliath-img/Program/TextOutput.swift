import Glibc
import Host
import Synchronization

/// Text for standard output, collected and written in large pieces: a map has hundreds of thousands of lines.
package struct TextOutput {
  private var collected = IOBuffer(count: 1 << 10)
  private var used = 0
  private var phrases = IOBuffer(count: 0)
  private static let flushSize = 1 << 16

  package init() {}

  package mutating func text(_ text: String) { raw(Array(text.utf8)) }

  package mutating func line(_ text: String = "") {
    raw(Array((text + "\n").utf8))
    flushWhenLarge()
  }

  package mutating func raw(_ more: [UInt8]) {
    reserve(more.count)
    collected.store(more, at: used)
    used += more.count
  }

  /// Words that are to be printed often; what `phrase` takes.
  package mutating func keep(_ text: String) -> Range<Int> {
    let start = phrases.count
    phrases = IOBuffer(phrases.bytes + Array(text.utf8))
    return start..<phrases.count
  }

  /// Words that were kept.
  package mutating func phrase(_ kept: Range<Int>) {
    reserve(kept.count)
    collected.copy(kept, of: phrases, to: used)
    used += kept.count
  }

  /// A number in decimal.
  package mutating func decimal(_ number: UInt64) {
    reserve(20)
    used += collected.storeDecimal(number, at: used)
  }

  private mutating func reserve(_ count: Int) {
    if used + count > collected.count { grow(count) }
  }

  private mutating func grow(_ count: Int) {
    let larger = IOBuffer(count: collected.count * 2 + count)
    larger.copy(0..<used, of: collected, to: 0)
    collected = larger
  }

  /// Writes what was collected.
  package mutating func flush() {
    Standard.write(collected.bytes(0..<used), to: 1)
    used = 0
  }

  package mutating func flushWhenLarge() {
    if used >= Self.flushSize { flush() }
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
