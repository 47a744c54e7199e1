import Block

extension Verb {
  static let snapshot = Verb(
    name: "snapshot", summary: "list, take, apply or delete internal snapshots", operands: "FILE",
    options: [
      Common.object, Common.imageOptions, Common.quiet, Common.share,
      OptionEntry("-l --list", nil, "list them (also when nothing else is asked for)"),
      OptionEntry("-c --create", "NAME", "take one of the present state"),
      OptionEntry("-a --apply", "NAME", "go back to one"),
      OptionEntry("-d --delete", "NAME", "forget one"),
    ], run: { arguments throws(ToolError) in try snapshot(arguments) })

  private static func snapshot(_ arguments: Arguments) throws(ToolError) -> Int32 {
    let actions = arguments.options.filter { ["l", "c", "a", "d"].contains($0.key) }
    guard actions.count < 2 else { throw .usage("Cannot mix '-l', '-a', '-c', '-d'") }
    let file = try Common.file(arguments)
    let action = actions.first ?? ("l", "")
    var request = try OpenRequest(arguments, file)
    request.isWritable = action.key != "l"
    let image = try Images.open(request)
    let name = action.value
    guard action.key != "l" else {
      let list = Images.snapshots(of: image.node)
      image.drop()
      if !list.isEmpty { Standard.write(Array(SnapshotInfo.table(list).utf8), to: 1) }
      return 0
    }
    do throws(ToolError) {
      switch action.key {
      case "c": try Images.createSnapshot(image, name)
      case "a": try Images.applySnapshot(image, name)
      default: try Images.deleteSnapshot(image, name)
      }
    } catch {
      image.drop()
      throw error
    }
    try image.close()
    return 0
  }
}
