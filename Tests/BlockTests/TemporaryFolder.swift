import Host

/// A folder of its own for one test; the files in it go with it.
final class TemporaryFolder: Sendable {
  let path: String

  init() {
    path = "/tmp/goliath-block-\(UInt64.random(in: 0...UInt64.max))"
    _ = FileNames.makeFolder(path)
  }

  deinit {
    for name in FileNames.completions(of: path + "/") { FileDescriptor.remove(name) }
    FileNames.removeFolder(path)
  }

  func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Makes a file of that content.
  @discardableResult
  func make(_ name: String, _ bytes: [UInt8]) throws -> String {
    var options = BlockFile.Options(isWritable: true)
    options.creates = true
    let file = try BlockFile(file(name), options)
    try file.write(0, from: IOBuffer(bytes).vector)
    return self.file(name)
  }

  /// Makes a file of that length without content.
  @discardableResult
  func make(_ name: String, length: UInt64) throws -> String {
    var options = BlockFile.Options(isWritable: true)
    options.creates = true
    try BlockFile(file(name), options).resize(to: length)
    return file(name)
  }
}
