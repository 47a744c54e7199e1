import Foundation
import JSON
import QAPI
import Testing

/// The repository's folder.
let repository = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent()

/// Runs a program; its exit status and what it printed.
private func run(_ program: String, _ arguments: [String]) throws -> (status: Int32, text: String) {
  let process = Process()
  process.executableURL = URL(filePath: "/usr/bin/env")
  process.arguments = [program] + arguments
  let pipe = Pipe()
  process.standardOutput = pipe
  try process.run()
  let output = pipe.fileHandleForReading.readDataToEndOfFile()
  process.waitUntilExit()
  return (process.terminationStatus, String(decoding: output, as: UTF8.self))
}

private func text(_ text: StaticString) -> String { "\(text)" }

@Suite struct SchemaTests {
  @Test func schemasAreValidForAnIndependentValidator() throws {
    let script = repository.appending(path: "Tests/Support/validate-schemas.py").path
    let (status, output) = try run(
      "python3",
      [
        script, repository.appending(path: "schemas").path,
        repository.appending(path: "Tests/Golden/qemu-7.2-conversation.json").path,
      ])
    if status == 77 {
      print("skipped: \(output)")
      return
    }
    #expect(status == 0, "\(output)")
  }

  @Test func referencePagesAreUpToDate() throws {
    let tool = URL(filePath: CommandLine.arguments[0]).deletingLastPathComponent()
      .appending(path: "SchemaCompiler").path
    try #require(FileManager.default.isExecutableFile(atPath: tool), "\(tool)")
    let (status, output) = try run(
      tool,
      [
        "check", repository.appending(path: "schemas/goliath.json").path,
        repository.appending(path: "docs/reference").path,
      ])
    #expect(status == 0, "\(output)")
  }

  /// A change of the API shows as a change of the golden file.
  @Test func introspectionIsTheGoldenFile() throws {
    let path = repository.appending(path: "Tests/Golden/qmp-schema.json")
    let entries = try JSONValue(parsing: text(Schema.schema)).arrayValue ?? []
    let lines = "[\n" + entries.map(\.text).joined(separator: ",\n") + "\n]\n"
    if ProcessInfo.processInfo.environment["GOLIATH_UPDATE_GOLDEN"] != nil {
      try lines.write(to: path, atomically: true, encoding: .utf8)
    }
    let golden = try String(contentsOf: path, encoding: .utf8)
    #expect(
      lines == golden,
      "the API changed; when that is meant, run this test with GOLIATH_UPDATE_GOLDEN=1")
  }

  @Test func commandsAreThoseOfTheIntrospection() throws {
    let names = try JSONValue(parsing: text(Schema.commands)).arrayValue ?? []
    #expect(names.compactMap { $0["name"]?.stringValue } == Command.allCases.map(\.rawValue))
    let entries = try JSONValue(parsing: text(Schema.schema)).arrayValue ?? []
    let described = entries.filter { $0["meta-type"] == "command" }
    #expect(described.compactMap { $0["name"]?.stringValue } == Command.allCases.map(\.rawValue))
  }

  /// What QEMU 7.2 does not have.
  private static let additions: Set<String> = [
    "x-events-since", "x-wait-event", "x-commands-in-flight", "x-schema", "X_EVENTS_DROPPED",
    "X_START_FAILED",
    "query-cluster", "query-dsm", "query-dsm-hot-pages", "cluster-execute", "cluster-continue",
    "CLUSTER_NODE_JOINED", "CLUSTER_NODE_SUSPECT", "CLUSTER_NODE_LOST", "CLUSTER_FROZEN",
    "CLUSTER_RESUMED", "CLUSTER_PROTOCOL_ERROR",
  ]

  /// Every command and event is what QEMU 7.2 says it is: names, order and types of all members,
  /// enum values, variants, features; only the numbers of the types differ.
  @Test func typesAreThoseOfQEMU() throws {
    let recorded = repository.appending(path: "Tests/Golden/qemu-7.2-schema.json")
    let theirs = try JSONValue(parsing: Array(Data(contentsOf: recorded))).arrayValue ?? []
    let ours = try JSONValue(parsing: text(Schema.schema)).arrayValue ?? []
    var comparison = SchemaComparison(ours: ours, theirs: theirs)
    for entry in ours {
      // What is ours has a name of its own; `x-` alone does not tell, since QEMU has some too.
      if let name = entry["name"]?.stringValue, ["command", "event"].contains(entry["meta-type"]),
        !SchemaTests.additions.contains(name)
      {
        comparison.compare(name, name, name)
      }
    }
    #expect(comparison.differences == [])
  }
}

/// Compares two introspection answers by structure.
private struct SchemaComparison {
  private let ours: [String: JSONValue]
  private let theirs: [String: JSONValue]
  private var seen: Set<String> = []
  var differences: [String] = []

  init(ours: [JSONValue], theirs: [JSONValue]) {
    self.ours = Self.table(ours)
    self.theirs = Self.table(theirs)
  }

  private static func table(_ entries: [JSONValue]) -> [String: JSONValue] {
    Dictionary(uniqueKeysWithValues: entries.map { ($0["name"]?.stringValue ?? "", $0) })
  }

  mutating func compare(_ our: String, _ their: String, _ path: String) {
    guard seen.insert("\(our) \(their)").inserted else { return }
    guard var left = ours[our]?.objectValue, var right = theirs[their]?.objectValue else {
      differences.append("\(path): not in both")
      return
    }
    // The name of a type is its number.
    left["name"] = nil
    right["name"] = nil
    walk(.object(left), .object(right), path)
  }

  /// The name of a variant or of an enumeration's value.
  private static func label(_ value: JSONValue) -> String {
    (value["case"] ?? value["name"] ?? value).text
  }

  /// Values by which a list is known of which we have a part.
  private static let isListOfWhatExists: Set<String> = [
    "\"blkdebug\"", "\"blockdev-snapshot-sync\"", "\"hubport\"",
  ]

  /// Members of QEMU's types that are ours, by their path.
  private static let addedMembers: Set<String> = [
    "query-cpus-fast/ret-type/element-type/members/node"
  ]

  /// Without the members and enum values of ours (`x-`, or known) that QEMU does not have.
  private static func withoutAdditions(
    _ left: [JSONValue], _ right: [JSONValue], _ path: String
  ) -> [JSONValue] {
    func name(_ value: JSONValue) -> String? { value.stringValue ?? value["name"]?.stringValue }
    let theirs = Set(right.compactMap(name))
    return left.filter { value in
      guard let name = name(value), !theirs.contains(name) else { return true }
      return !name.hasPrefix("x-") && !addedMembers.contains("\(path)/\(name)")
    }
  }

  private mutating func walk(_ left: JSONValue, _ right: JSONValue, _ path: String) {
    switch (left, right) {
    case (.object(let left), .object(let right)):
      if Set(left.keys) != Set(right.keys) {
        differences.append("\(path): \(left.keys) is not \(right.keys)")
      }
      for (key, value) in left {
        guard let other = right[key] else { continue }
        if ["type", "arg-type", "ret-type", "element-type"].contains(key) {
          compare(value.stringValue ?? "", other.stringValue ?? "", "\(path)/\(key)")
        } else {
          walk(value, other, "\(path)/\(key)")
        }
      }
    case (.array(let all), .array(var right)):
      let left = Self.withoutAdditions(all, right, path)
      // Of the object types we list those that exist, in QEMU's order.
      if path.hasPrefix("object-add/"),
        ["arg-type/variants", "type/members", "type/values"].contains(where: path.hasSuffix),
        !path.hasSuffix("arg-type/members"), !path.contains("variants[")
      {
        let known = Set(left.map(Self.label))
        right.removeAll { !known.contains(Self.label($0)) }
      }
      // Likewise the drivers of block nodes and the actions of transactions, wherever they are listed.
      if right.map(Self.label).contains(where: Self.isListOfWhatExists.contains) {
        let known = Set(left.map(Self.label))
        right.removeAll { !known.contains(Self.label($0)) }
      }
      if left.count != right.count { differences.append("\(path): different length") }
      for (index, pair) in zip(left, right).enumerated() {
        walk(pair.0, pair.1, "\(path)[\(index)]")
      }
    default:
      if left != right { differences.append("\(path): \(left.text) is not \(right.text)") }
    }
  }
}
