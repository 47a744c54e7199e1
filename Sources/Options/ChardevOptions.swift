// -chardev, and the backend that a set of its parameters describes.

internal import QAPI

enum ChardevOptions {
  static let chardev: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    let pairs = KeyValueText.split(text, impliedKey: "backend")
    if let backend = pairs.last(where: { $0.key == "backend" }), OptionText.isHelp(backend.value) {
      state.help = .chardevs
      return
    }
    if pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      state.help = .group("chardev")
      return
    }
    try state.add(text, to: .chardev, origin: origin)
  }

  /// A kind of backend.
  struct Kind: Sendable {
    let name: String
    /// An old name that is warned about.
    var oldName: String?
    let make: @Sendable (OptionValues, ChardevCommon) throws(OptionError) -> ChardevBackend
  }

  /// Backends in the order in which help lists them.
  static let kinds: [Kind] = [
    Kind(name: "file", make: file),
    Kind(name: "memory") { values, common throws(OptionError) in
      guard case .ringbuf(let ring) = try ringBuffer(values, common) else { return .null(common) }
      return .memory(ring)
    },
    Kind(name: "mux", make: mux),
    Kind(name: "null") { _, common in .null(common) },
    Kind(name: "parallel", oldName: "parport") { values, common throws(OptionError) in
      .parallel(try hostDevice("parallel: no device path given", values, common))
    },
    Kind(name: "pipe") { values, common throws(OptionError) in
      .pipe(try hostDevice("pipe: no device path given", values, common))
    },
    Kind(name: "pty") { _, common in .pty(common) },
    Kind(name: "ringbuf", make: ringBuffer),
    Kind(name: "serial", oldName: "tty") { values, common throws(OptionError) in
      .serial(try hostDevice("serial/tty: no device path given", values, common))
    },
    Kind(name: "socket", make: ChardevSocketOptions.socket),
    Kind(name: "stdio") { values, common in
      .stdio(
        ChardevStdio(
          logfile: common.logfile, logappend: common.logappend,
          signal: values.boolean("signal") ?? true))
    },
    Kind(name: "testdev") { _, common in .testdev(common) },
    Kind(name: "udp", make: ChardevSocketOptions.udp),
    Kind(name: "vc") { values, common in
      .vc(
        ChardevVC(
          logfile: common.logfile, logappend: common.logappend,
          width: signed(values.number("width")),
          height: signed(values.number("height")), cols: signed(values.number("cols")),
          rows: signed(values.number("rows"))))
    },
  ]

  /// Backends that QEMU has and Goliath has not.
  private static let refused = [
    "braille", "dbus", "msmouse", "qemu-vdagent", "spiceport", "spicevmc", "wctablet",
  ]

  /// The devices that one set of parameters makes: one, or with `mux=on` a base and its multiplexer.
  static func resolve(
    _ values: OptionValues, _ warnings: inout [OptionWarning]
  ) throws(OptionError) -> [ChardevConfiguration] {
    guard let id = values.id else {
      throw OptionError(.invalidValue, values.origin, "chardev: no id specified")
    }
    guard let name = values.string("backend") else {
      throw OptionError(.invalidValue, values.origin, "chardev: \"\(id)\" missing backend")
    }
    guard let kind = kinds.first(where: { $0.name == name || $0.oldName == name }) else {
      if refused.contains(name) {
        throw OptionError(
          .unsupported, values.origin, "character device backend '\(name)' is not supported",
          hints: ["There are: \(kinds.map(\.name).joined(separator: " "))"])
      }
      throw OptionError(
        .invalidValue, values.origin, "'\(name)' is not a valid char driver name",
        suggestion: Spelling.nearest(to: name, among: kinds.map(\.name)))
    }
    if kind.oldName == name {
      warnings.append(
        OptionWarning(
          values.origin, "The alias '\(name)' is deprecated, use '\(kind.name)' instead"))
    }
    let common = ChardevCommon(
      logfile: values.string("logfile"), logappend: values.boolean("logappend"))
    let backend = try kind.make(values, common)
    guard values.boolean("mux") == true else {
      return [ChardevConfiguration(label: id, backend: backend, origin: values.origin)]
    }
    let base = "\(id)-base"
    return [
      ChardevConfiguration(label: base, backend: backend, origin: values.origin),
      ChardevConfiguration(
        label: id,
        backend: .mux(
          ChardevMux(chardev: base)),
        origin: values.origin),
    ]
  }

  @Sendable private static func file(
    _ values: OptionValues, _ common: ChardevCommon
  ) throws(OptionError) -> ChardevBackend {
    guard let path = values.string("path") else {
      throw OptionError(.invalidValue, values.origin, "chardev: file: no filename given")
    }
    return .file(
      ChardevFile(
        logfile: common.logfile, logappend: common.logappend, out: path,
        append: values.boolean("append")))
  }

  @Sendable private static func ringBuffer(
    _ values: OptionValues, _ common: ChardevCommon
  ) throws(OptionError) -> ChardevBackend {
    var size: UInt64?
    if let entry = values["size"] {
      let bytes = try OptionValues.size(entry.value, of: "size", entry.origin)
      guard bytes.nonzeroBitCount == 1, bytes <= UInt64(Int64.max) else {
        throw OptionError(
          .invalidValue, values.origin, "size of ringbuf chardev must be power of two")
      }
      size = bytes
    }
    return .ringbuf(
      ChardevRingbuf(
        logfile: common.logfile, logappend: common.logappend, size: signed(size)))
  }

  @Sendable private static func mux(
    _ values: OptionValues, _ common: ChardevCommon
  ) throws(OptionError) -> ChardevBackend {
    guard let base = values.string("chardev") else {
      throw OptionError(.invalidValue, values.origin, "chardev: mux: no chardev given")
    }
    return .mux(ChardevMux(logfile: common.logfile, logappend: common.logappend, chardev: base))
  }

  private static func hostDevice(
    _ complaint: String, _ values: OptionValues, _ common: ChardevCommon
  ) throws(OptionError) -> ChardevHostdev {
    guard let path = values.string("path") else {
      throw OptionError(.invalidValue, values.origin, "chardev: \(complaint)")
    }
    return ChardevHostdev(
      logfile: common.logfile, logappend: common.logappend, device: path)
  }

  private static func signed(_ value: UInt64?) -> Int? { value.map { Int(clamping: $0) } }
}
