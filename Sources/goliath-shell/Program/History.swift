import Glibc
import Host

/// The lines entered at the prompt, kept in a file of the user's own (mode 0600), at most `limit` of them.
struct History {
  static let limit = 1000
  private(set) var lines: [String] = []
  private let path: String?

  /// Reads the history at `path`; nil keeps none beyond this run.
  init(path: String?) {
    self.path = path
    guard let path, let bytes = try? FileDescriptor.contents(of: path, limit: 16 << 20) else {
      return
    }
    let all = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    lines = all.suffix(Self.limit)
    if all.count > 2 * Self.limit { rewrite() }
  }

  /// `$XDG_STATE_HOME/goliath/shell-history`; nil without a home.
  static var usualPath: String? {
    var folder = Environment.value("XDG_STATE_HOME") ?? ""
    if folder.isEmpty {
      guard let home = Environment.value("HOME"), !home.isEmpty else { return nil }
      folder = home + "/.local/state"
    }
    folder += "/goliath"
    return FileNames.makeFolder(folder) ? folder + "/shell-history" : nil
  }

  /// Adds a line unless it is blank or the same as the one before. Lines with secrets can be kept out by a blank before them.
  mutating func add(_ line: String) -> Bool {
    let single = line.replacingLineEnds()
    guard !single.allSatisfy(\.isWhitespace), !single.hasPrefix(" "), single != lines.last else {
      return false
    }
    lines.append(single)
    if lines.count > Self.limit { lines.removeFirst() }
    append(single)
    return true
  }

  // MARK: -

  private func append(_ line: String) {
    guard let path,
      let file = try? FileDescriptor.open(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
    else { return }
    _ = fchmod(file.rawValue, 0o600)
    _ = try? file.write(Array((line + "\n").utf8))
  }

  private func rewrite() {
    guard let path,
      let file = try? FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
    else { return }
    _ = fchmod(file.rawValue, 0o600)
    _ = try? file.write(Array(lines.map { $0 + "\n" }.joined().utf8))
  }
}

extension String {
  /// The text in one line.
  fileprivate func replacingLineEnds() -> String {
    String(map { $0.isNewline ? " " : $0 })
  }
}
