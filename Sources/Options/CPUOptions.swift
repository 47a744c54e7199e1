// -cpu.

/// Reads `MODEL,+feature,-feature,name=value`.
enum CPUOptions {
  static let cpu: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    guard !text.isEmpty else {
      throw OptionError(.invalidValue, origin, "-cpu option cannot be empty")
    }
    if OptionText.isHelp(text) { state.help = .cpus } else { state.cpu = origin }
  }

  static func resolve(_ state: inout ParserState) throws(OptionError) -> CPUConfiguration? {
    guard let origin = state.cpu, let text = origin.argument else { return nil }
    let words = text.split(separator: ",", omittingEmptySubsequences: false)
    let model = words.first.map(String.init) ?? ""
    let models = state.catalog.cpuModels.map(\.name)
    if !models.isEmpty, !models.contains(model) {
      throw OptionError(
        .invalidValue, origin, "unable to find CPU model '\(model)'",
        suggestion: Spelling.nearest(to: model, among: models))
    }
    var assigned: [CPUConfiguration.Property] = []
    var added: [String] = []
    var removed: [String] = []
    for word in words.dropFirst() where !word.isEmpty {
      if word.hasPrefix("+") {
        added.append(name(word.dropFirst()))
      } else if word.hasPrefix("-") {
        removed.append(name(word.dropFirst()))
      } else if let equals = word.firstIndex(of: "=") {
        let name = name(word[..<equals])
        let value = String(word[word.index(after: equals)...])
        assigned.append(try property(name, value, origin))
      } else {
        assigned.append(CPUConfiguration.Property(name: name(word), value: "on"))
      }
    }
    for property in assigned where added.contains(property.name) || removed.contains(property.name)
    {
      let sign = added.contains(property.name) ? "+" : "-"
      state.warnings.append(
        OptionWarning(
          origin,
          "Ambiguous CPU model string. Don't mix both \"\(sign)\(property.name)\" and"
            + " \"\(property.name)=\(property.value)\""))
    }
    let properties =
      assigned + added.map { CPUConfiguration.Property(name: $0, value: "on") }
      + removed.map { CPUConfiguration.Property(name: $0, value: "off") }
    let known = state.catalog.cpuFeatures
    if !known.isEmpty {
      for property in properties where !known.contains(property.name) {
        throw OptionError(
          .unknownParameter, origin, "Property '\(model)-x86_64-cpu.\(property.name)' not found",
          suggestion: Spelling.nearest(to: property.name, among: known))
      }
    }
    return CPUConfiguration(model: model, properties: properties)
  }

  /// Underscores are an old spelling of dashes.
  private static func name(_ text: Substring) -> String {
    String(text.map { $0 == "_" ? "-" : $0 })
  }

  /// `tsc-freq` counts in Hz with decimal suffixes and stands for `tsc-frequency`.
  private static func property(
    _ name: String, _ value: String, _ origin: OptionOrigin
  ) throws(OptionError) -> CPUConfiguration.Property {
    guard name == "tsc-freq" else { return CPUConfiguration.Property(name: name, value: value) }
    let factors: [Character: UInt64] = ["k": 1000, "m": 1_000_000, "g": 1_000_000_000]
    let factor = value.last.flatMap { factors[Character($0.lowercased())] }
    let digits = factor == nil ? value[...] : value.dropLast()
    guard case .value(let number) = OptionText.number(String(digits)), !digits.hasPrefix("-")
    else { throw OptionError(.invalidValue, origin, "bad numerical value \(value)") }
    let (hertz, overflow) = number.multipliedReportingOverflow(by: factor ?? 1)
    guard !overflow, hertz <= UInt64(Int64.max) else {
      throw OptionError(.invalidValue, origin, "bad numerical value \(value)")
    }
    return CPUConfiguration.Property(name: "tsc-frequency", value: String(hertz))
  }
}
