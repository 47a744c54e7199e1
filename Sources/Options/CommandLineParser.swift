// Command line in, launch plan out.

/// Parses QEMU's command line. Pure but for reading the files named by `-readconfig`.
package struct CommandLineParser: Sendable {
  /// Names to check against, and what the help forms list.
  package var catalog: HelpCatalog

  package init(catalog: HelpCatalog = HelpCatalog()) {
    self.catalog = catalog
  }

  /// Parses the arguments after the program's name. Later options win over earlier ones.
  ///
  /// - Parameter programName: a name that ends in `kvm` makes `kvm:tcg` the default accelerators.
  /// - Throws: the first thing that is wrong, to be printed with `OptionError.lines(program:)`
  ///   before exit status 1.
  package func parse(
    _ arguments: [String], programName: String = "goliath"
  ) throws(OptionError) -> LaunchPlan {
    var state = ParserState(catalog: catalog)
    var rest = arguments[...]
    while let word = rest.popFirst(), state.help == nil {
      try read(word, &rest, &state)
    }
    if let topic = state.help {
      return LaunchPlan(action: .help(topic), warnings: state.warnings)
    }
    let configuration = try resolve(&state, programName: programName)
    return LaunchPlan(action: .run(configuration), warnings: state.warnings)
  }

  /// Handles one option and takes its argument from `rest`.
  private func read(
    _ word: String, _ rest: inout ArraySlice<String>, _ state: inout ParserState
  ) throws(OptionError) {
    guard word.hasPrefix("-") else {
      // An image alone is the first disk.
      return try DriveOptions.disk(0)(&state, word, OptionOrigin(option: word, argument: nil))
    }
    let name = String(word.dropFirst(word.hasPrefix("--") ? 2 : 1))
    guard let option = OptionTable.option(named: name) else {
      let nearest = Spelling.nearest(
        to: name, among: OptionTable.options.lazy.filter { !$0.isRefused }.flatMap(\.names))
      throw OptionError(
        .unknownOption, OptionOrigin(option: word, argument: nil), "invalid option",
        suggestion: nearest.map { "-\($0)" })
    }
    switch option.action {
    case .flag(let handler):
      try handler(&state, OptionOrigin(option: word, argument: nil))
    case .argument(_, let handler):
      guard let argument = rest.popFirst() else {
        throw OptionError(
          .missingArgument, OptionOrigin(option: word, argument: nil), "requires an argument")
      }
      try handler(&state, argument, OptionOrigin(option: word, argument: argument))
    case .refused(let reason, let allowed):
      let argument = rest.first.flatMap { $0.hasPrefix("-") ? nil : $0 }
      if let argument, allowed.contains(argument) {
        rest = rest.dropFirst()
        return
      }
      throw OptionError(.unsupported, OptionOrigin(option: word, argument: argument), reason)
    }
  }

  /// Turns what was read into a configuration, with all defaults.
  private func resolve(
    _ state: inout ParserState, programName: String
  ) throws(OptionError) -> LaunchConfiguration {
    let board = try MachineOptions.type(state)
    try MonitorOptions.addDefaults(&state, board)
    var configuration = state.configuration
    configuration.nographic = state.nographic != nil
    try MachineOptions.resolve(state, board, into: &configuration)
    configuration.accelerators = try AcceleratorOptions.resolve(&state, programName: programName)
    try ScalarOptions.resolve(state, into: &configuration)
    try ObjectOption.resolve(state, into: &configuration)
    try MachineOptions.resolveMemoryBackend(state, into: &configuration)
    try DriveOptions.resolve(&state, board, into: &configuration)
    try NetOptions.resolve(state, into: &configuration)
    try DeviceOptions.resolve(&state, board, into: &configuration)
    try MonitorOptions.resolve(&state, board, into: &configuration)
    try ClusterOptions.resolve(state, board, into: &configuration)
    return configuration
  }
}

extension OptionDescriptor {
  /// QEMU has it, Goliath has not.
  var isRefused: Bool { if case .refused = action { true } else { false } }
}
