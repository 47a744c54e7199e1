import Foundation
import PackagePlugin

/// Runs SchemaCompiler over `schemas/` on every build; its Swift output is compiled into `QAPI`.
@main
struct GenerateQAPI: BuildToolPlugin {
  /// The part of `schemas/goliath.json` that names the schema files.
  private struct Manifest: Decodable {
    let files: [String]
  }

  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
    let schemas = context.package.directoryURL.appending(path: "schemas")
    let manifest = schemas.appending(path: "goliath.json")
    let files = try JSONDecoder().decode(Manifest.self, from: Data(contentsOf: manifest)).files
    let shared = [
      "Commands.swift", "DecliningHandlers.swift", "Event.swift", "Schema.swift",
      "SchemaDocuments.swift",
    ]
    let outputs = files.map { Self.swiftFile(for: $0) } + shared
    let output = context.pluginWorkDirectoryURL
    return [
      .buildCommand(
        displayName: "Generating the API from schemas/",
        executable: try context.tool(named: "SchemaCompiler").url,
        arguments: ["swift", manifest.path, output.path],
        inputFiles: [manifest] + files.map { schemas.appending(path: $0) },
        outputFiles: outputs.map { output.appending(path: $0) })
    ]
  }

  /// `run-state.json` → `RunStateTypes.swift`; the same rule as in SchemaCompiler.
  private static func swiftFile(for schema: String) -> String {
    let words = schema.dropLast(".json".count).split(separator: "-")
    return words.map { $0.prefix(1).uppercased() + $0.dropFirst() }.joined() + "Types.swift"
  }
}
