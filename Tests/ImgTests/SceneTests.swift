import Host
import Support
import Testing

/// The scenes of `scenes`, played with `qemu-img` and with `goliath-img`: output, errors and exit statuses are the same.
@Suite struct SceneTests {
  private static let tool = Goliath.program("goliath-img")
  static let reference = Process.find("qemu-img")

  struct Scene: CustomStringConvertible, Sendable {
    var description: String
    var lines: [String] = []
  }

  static let scenes: [Scene] = {
    var scenes: [Scene] = []
    for line in Checkout.text("Tests/ImgTests/scenes").split(separator: "\n") {
      if line.hasPrefix("#") { continue }
      if line.hasPrefix("= ") {
        scenes.append(Scene(description: String(line.dropFirst(2))))
      } else {
        scenes[scenes.count - 1].lines.append(String(line))
      }
    }
    return scenes
  }()

  @Test(.enabled(if: reference != nil), arguments: scenes)
  func bothSayAndDoTheSame(scene: Scene) throws {
    let wanted = try SceneTests.play(scene, try #require(SceneTests.reference))
    let got = try SceneTests.play(scene, SceneTests.tool)
    #expect(wanted.count == got.count && !wanted.isEmpty)
    for (one, other) in zip(wanted, got) { #expect(one == other) }
  }

  /// What each line of a scene gave.
  private static func play(_ scene: Scene, _ tool: String) throws -> [String] {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    var results: [String] = []
    for line in scene.lines {
      let isPreparation = line.hasPrefix("! ")
      var command = line
      var ignored: [Substring] = []
      if isPreparation {
        command = String(line.dropFirst(2))
      } else {
        if let bar = line.range(of: " | ") {
          command = String(line[..<bar.lowerBound])
          ignored = line[bar.upperBound...].split(separator: "|")
        }
        command = "\(tool) \(command)"
      }
      let result = try Process.output(
        ["/bin/sh", "-c", "export TZ=UTC; { \(command)\n} 2>errors"], joinErrors: false,
        folder: folder)
      let errors = try FileDescriptor.contents(of: folder + "/errors")
      let text = (result.text + "\n" + String(decoding: errors, as: UTF8.self))
        .split(separator: "\n", omittingEmptySubsequences: false)
        .filter { line in !ignored.contains { line.contains($0) } }
        .joined(separator: "\n")
      results.append("\(line)\n= \(result.status)\n\(named(text))")
    }
    return results
  }

  private static func named(_ text: String) -> String {
    var text = text
    while let range = text.range(of: "goliath-img") {
      text.replaceSubrange(range, with: "qemu-img")
    }
    return text
  }
}

extension String {
  /// Where a part stands first.
  fileprivate func range(of part: String) -> Range<String.Index>? {
    var start = startIndex
    while start < endIndex {
      if self[start...].hasPrefix(part) {
        return start..<index(start, offsetBy: part.count)
      }
      start = index(after: start)
    }
    return nil
  }
}
