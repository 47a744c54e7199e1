import Glibc
import Host

/// Files of the checkout that the tests run in.
package enum Checkout {
  /// The repository's folder, without a slash at its end.
  package static let root: String = {
    var parts = String(#filePath).split(separator: "/", omittingEmptySubsequences: false)
    parts.removeLast(3)
    return parts.joined(separator: "/")
  }()

  /// The paths below `folder` (relative to the root) that end in `suffix`, relative to the root, sorted.
  package static func files(in folder: String, suffix: String) -> [String] {
    var result: [String] = []
    var pending = [folder]
    while let next = pending.popLast() {
      for name in entries(root + "/" + next) where !name.hasPrefix(".") {
        let path = next + "/" + name
        if isFolder(root + "/" + path) {
          pending.append(path)
        } else if name.hasSuffix(suffix) {
          result.append(path)
        }
      }
    }
    return result.sorted()
  }

  /// The names of the folders directly below `folder`, sorted.
  package static func folders(in folder: String) -> [String] {
    entries(root + "/" + folder).filter { isFolder("\(root)/\(folder)/\($0)") }.sorted()
  }

  /// A text file of the checkout; empty when it is not there.
  package static func text(_ path: String) -> String {
    String(decoding: (try? FileDescriptor.contents(of: root + "/" + path)) ?? [], as: UTF8.self)
  }

  /// Whether a file or folder of the checkout exists.
  package static func exists(_ path: String) -> Bool { Process.isThere(root + "/" + path) }

  private static func entries(_ path: String) -> [String] {
    (try? Process.output(["/bin/ls", "-1A", path]).text.split(separator: "\n").map(String.init))
      ?? []
  }

  private static func isFolder(_ path: String) -> Bool { Process.isThere(path + "/.") }
}
