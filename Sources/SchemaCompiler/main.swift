import FoundationEssentials
import Glibc
import JSON

// SchemaCompiler swift MANIFEST FOLDER        Swift sources of module QAPI
// SchemaCompiler reference MANIFEST FOLDER    reference pages
// SchemaCompiler golden MANIFEST FOLDER       the introspection, one entry a line, as the tests keep it
// SchemaCompiler check MANIFEST FOLDER        whether the reference pages in FOLDER are up to date

/// Writes a file unless it already has that content, so that nothing is rebuilt for nothing.
func write(_ text: String, to path: String) throws {
  if FileManager.default.contents(atPath: path) == Data(text.utf8) { return }
  try Data(text.utf8).write(to: URL(filePath: path))
}

func run(_ arguments: [String]) throws {
  guard arguments.count == 3 else {
    throw SchemaError(
      description: "usage: SchemaCompiler swift|reference|golden|check MANIFEST FOLDER")
  }
  let api = try Reader.read(manifest: arguments[1])
  let folder = arguments[2]
  switch arguments[0] {
  case "swift":
    try FileManager.default.createDirectory(
      at: URL(filePath: folder), withIntermediateDirectories: true)
    for file in api.files {
      try write(TypeEmitter.emit(file, of: api), to: "\(folder)/\(file.stem)Types.swift")
    }
    try write(DispatchEmitter.commands(of: api), to: "\(folder)/Commands.swift")
    try write(IntrospectionEmitter.documents(of: api), to: "\(folder)/SchemaDocuments.swift")
    try write(DispatchEmitter.declining(of: api), to: "\(folder)/DecliningHandlers.swift")
    try write(DispatchEmitter.events(of: api), to: "\(folder)/Event.swift")
    try write(IntrospectionEmitter.emit(api), to: "\(folder)/Schema.swift")
  case "reference":
    try FileManager.default.createDirectory(
      at: URL(filePath: folder), withIntermediateDirectories: true)
    for (name, text) in ReferenceEmitter.pages(of: api) { try write(text, to: "\(folder)/\(name)") }
  case "golden":
    let lines = (IntrospectionEmitter.schema(of: api).arrayValue ?? []).map(\.text)
    try write("[\n" + lines.joined(separator: ",\n") + "\n]\n", to: "\(folder)/qmp-schema.json")
  case "check":
    for (name, text) in ReferenceEmitter.pages(of: api)
    where FileManager.default.contents(atPath: "\(folder)/\(name)") != Data(text.utf8) {
      throw SchemaError(
        description: "\(name) is not what the schemas say; run SchemaCompiler reference")
    }
  default: throw SchemaError(description: "unknown mode '\(arguments[0])'")
  }
}

do {
  try run(Array(CommandLine.arguments.dropFirst()))
} catch {
  print("error: \(error)")
  exit(1)
}
