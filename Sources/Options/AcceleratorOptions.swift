// -accel and -machine accel=.

/// Resolves which accelerators are tried, and their properties.
enum AcceleratorOptions {
  static let names = ["kvm", "tcg"]

  static let accel: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    let first = KeyValueText.split(text, impliedKey: "accel").last { $0.key == "accel" }?.value
    if OptionText.isHelp(first ?? "help") {
      state.help = .accelerators
      return
    }
    // A property of this name does not exist anywhere; QEMU says so, we list those that do.
    if first == "tcg", text.split(separator: ",").contains(where: { OptionText.isHelp($0) }) {
      state.help = .softwareCPU
      return
    }
    try state.add(text, to: .accel, origin: origin)
  }

  static func resolve(
    _ state: inout ParserState, programName: String
  ) throws(OptionError) -> [AcceleratorConfiguration] {
    let machine = state.merged(.machine)
    let options = state.list(.accel)
    let legacy = machine?["accel"]
    if let legacy, let origin = options.first?.origin {
      throw OptionError(
        .conflict, origin, "The -accel and \"-machine accel=\" options are incompatible",
        hints: ["(the other one is \(legacy.origin.text))"])
    }
    var accelerators: [AcceleratorConfiguration] = []
    if options.isEmpty {
      let standard = programName.hasSuffix("kvm") ? "kvm:tcg" : "tcg"
      let entry =
        legacy
        ?? OptionEntry(
          key: "accel", value: standard, origin: OptionOrigin(option: "-accel", argument: standard))
      for name in try known(entry, &state) {
        accelerators.append(try configure(name, properties: []))
      }
    }
    for values in options {
      guard let entry = values["accel"] else {
        throw OptionError(.invalidValue, values.origin, "Parameter 'accel' is missing")
      }
      let properties = values.entries.filter { $0.key != "accel" }
      do throws(OptionError) {
        for name in try known(entry, &state) {
          accelerators.append(try configure(name, properties: properties))
        }
      } catch {
        // An unknown name is passed over when another -accel is left, as in QEMU.
        guard error.kind == .invalidValue, error.reason.hasPrefix("invalid accelerator "),
          options.count > 1
        else { throw error }
        state.warnings.append(OptionWarning(error.origin, error.reason))
      }
    }
    guard !accelerators.isEmpty else {
      throw OptionError(.invalidValue, options.first?.origin, "no accelerator found")
    }
    if let entry = machine?["kernel-irqchip"] { try checkInterruptControllers(entry) }
    if state.configuration.singleStep {
      accelerators = accelerators.map { accelerator in
        guard case .tcg(var tcg) = accelerator else { return accelerator }
        tcg.oneInstructionPerBlock = true
        return .tcg(tcg)
      }
    }
    return accelerators
  }

  /// The known names of `a:b:c`; unknown ones are warned about as long as one is known.
  private static func known(
    _ entry: OptionEntry, _ state: inout ParserState
  ) throws(OptionError) -> [String] {
    let wanted = entry.value.split(separator: ":").map(String.init)
    guard let first = wanted.first else {
      throw OptionError(.invalidValue, entry.origin, "no accelerator found")
    }
    let known = wanted.filter { names.contains($0) }
    if known.isEmpty {
      throw OptionError(
        .invalidValue, entry.origin, "invalid accelerator \(first)",
        suggestion: Spelling.nearest(to: first, among: names))
    }
    for name in wanted where !names.contains(name) {
      state.warnings.append(OptionWarning(entry.origin, "invalid accelerator \(name)"))
    }
    return known
  }

  private static func configure(
    _ name: String, properties: [OptionEntry]
  ) throws(OptionError) -> AcceleratorConfiguration {
    if name == "kvm" {
      var kvm = KVMConfiguration()
      for entry in properties {
        switch entry.key {
        case "probe": kvm.probe = try OptionValues.boolean(entry.value, of: "probe", entry.origin)
        case "kernel-irqchip": try checkInterruptControllers(entry)
        case "kvm-shadow-mem", "dirty-ring-size", "notify-vmexit", "notify-window":
          throw OptionError(
            .unsupported, entry.origin,
            "Property 'kvm-accel.\(entry.key)' is not supported; leave it out")
        default: throw unknown(entry, of: "kvm", among: ["kernel-irqchip", "probe"])
        }
      }
      return .kvm(kvm)
    }
    return .tcg(try TCGOptions.configure(properties))
  }

  private static func unknown(
    _ entry: OptionEntry, of name: String, among properties: [String]
  ) -> OptionError {
    OptionError(
      .unknownParameter, entry.origin, "Property '\(name)-accel.\(entry.key)' not found",
      suggestion: Spelling.nearest(to: entry.key, among: properties))
  }

  /// `kernel-irqchip`: interrupts must be routable between nodes, so the host kernel's own
  /// controllers are never used.
  private static func checkInterruptControllers(_ entry: OptionEntry) throws(OptionError) {
    if entry.value == "split" || OptionText.boolean(entry.value) == true {
      throw OptionError(
        .unsupported, entry.origin,
        "kernel-irqchip=\(entry.value) is not supported: interrupt controllers are in user space, so"
          + " that interrupts can be routed between nodes (use kernel-irqchip=off or leave it out)")
    }
    guard OptionText.boolean(entry.value) == false else {
      throw OptionError(
        .invalidValue, entry.origin,
        "Parameter 'kernel-irqchip' does not accept value '\(entry.value)'",
        suggestion: Spelling.nearest(to: entry.value, among: ["off"]))
    }
  }
}
