import Host

/// The options with which an image is made or amended (`-o`): what a format knows, and what was asked for.
package struct CreateOptions: Sendable {
  package enum Kind: Sendable { case text, size, number, flag }

  /// One option that a format knows.
  package struct Entry: Sendable {
    package let name: String
    package let kind: Kind
    /// What is printed when nothing was asked for.
    package let usual: String?
    package let help: String
    package let isAmendable: Bool

    init(
      _ name: String, _ kind: Kind, usual: String? = nil, amend isAmendable: Bool = false,
      help: String
    ) {
      self.name = name
      self.kind = kind
      self.usual = usual
      self.help = help
      self.isAmendable = isAmendable
    }
  }

  package let entries: [Entry]
  /// Text by name, in the order asked for.
  package private(set) var values: [(name: String, text: String)] = []

  /// Options of an image of `format` in a file; nil: there is no such format that can be made.
  package init?(format: String, inFile: Bool = true) {
    switch format {
    case "qcow2": entries = CreateOptions.qcow2 + (inFile ? CreateOptions.file : [])
    case "raw":
      entries =
        (inFile ? [CreateOptions.size] : [CreateOptions.size])
        + (inFile ? CreateOptions.file : [])
    case "file", "host_device": entries = [CreateOptions.size] + CreateOptions.file
    default: return nil
    }
  }

  package subscript(name: String) -> String? {
    values.last { $0.name == name }?.text
  }

  /// Takes the backing file and its format as `-b`, `-B` and `-F` give them. Throws where `format` has no such thing.
  mutating func set(
    backing: String?, backingFormat: String?, for format: String
  ) throws(ToolError) {
    if let backing {
      guard knows("backing_file") else {
        throw ToolError("Backing file not supported for file format '\(format)'")
      }
      set("backing_file", backing)
    }
    if let backingFormat {
      guard knows("backing_fmt") else {
        throw ToolError("Backing file format not supported for file format '\(format)'")
      }
      set("backing_fmt", backingFormat)
    }
  }

  package mutating func set(_ name: String, _ text: String) {
    values.removeAll { $0.name == name }
    values.append((name, text))
  }

  package mutating func remove(_ name: String) { values.removeAll { $0.name == name } }

  package func knows(_ name: String) -> Bool { entries.contains { $0.name == name } }

  /// A size or number that was asked for.
  package func number(_ name: String) -> UInt64? {
    self[name].flatMap { text in
      do throws(Sizes.Failure) { return try Sizes.parse(text) } catch { return nil }
    }
  }

  /// A switch that was asked for.
  package func flag(_ name: String) -> Bool? {
    self[name].map { $0 == "on" || $0 == "yes" || $0 == "true" || $0 == "y" }
  }

  /// Adds what `-o` says: `name=value,…`, a comma inside a value written twice. Throws for unknown names and values of the wrong kind.
  package mutating func parse(_ text: String, forAmending: Bool = false) throws(ToolError) {
    for (name, value, isSwitch) in CreateOptions.split(text) {
      guard let entry = entries.first(where: { $0.name == name }) else {
        throw ToolError("Invalid parameter '\(name)'")
      }
      if forAmending, !entry.isAmendable {
        throw ToolError(
          "Invalid parameter '\(name)'",
          hint: "This option is only supported for image creation\n")
      }
      switch entry.kind {
      case .text: break
      case .flag:
        guard isSwitch || CreateOptions.flags.contains(value) else {
          throw ToolError("Parameter '\(name)' expects 'on' or 'off'")
        }
      case .number:
        guard UInt64(value) != nil else {
          throw ToolError("Parameter '\(name)' expects a number")
        }
      case .size: _ = try CreateOptions.size(value, of: name)
      }
      set(name, value)
    }
  }

  /// A size as an option's value, with QEMU's sentences.
  package static func size(_ text: String, of name: String) throws(ToolError) -> UInt64 {
    do throws(Sizes.Failure) { return try Sizes.parse(text) } catch {
      if error == .outOfRange {
        throw ToolError("Value '\(text)' is out of range for parameter '\(name)'")
      }
      throw ToolError(
        "Parameter '\(name)' expects a non-negative number below 2^64",
        hint: """
          Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-
          and exabytes, respectively.

          """)
    }
  }

  /// All options with their values, as the line about a new image shows them.
  package var summary: String {
    var parts: [String] = []
    var shown: Set<String> = []
    for entry in entries where shown.insert(entry.name).inserted {
      guard let text = self[entry.name] ?? entry.usual else { continue }
      switch entry.kind {
      case .text:
        parts.append(
          "\(entry.name)=\(text.split(separator: ",", omittingEmptySubsequences: false).joined(separator: ",,"))"
        )
      case .flag: parts.append("\(entry.name)=\(text)")
      case .size, .number: parts.append("\(entry.name)=\(number(entry.name) ?? UInt64(text) ?? 0)")
      }
    }
    return parts.joined(separator: " ")
  }

  /// What `-o help` prints.
  package func help(amending format: String?, _ creating: String?) -> String {
    var text = ""
    if let format { text = "Amend options for '\(format)':\n" }
    if let creating { text = "Supported \(creating) options:\n" }
    if format == nil, creating == nil { text = "Supported options:\n" }
    var shown: Set<String> = []
    for entry in entries.sorted(by: { $0.name < $1.name })
    where (format == nil || entry.isAmendable) && shown.insert(entry.name).inserted {
      let kind =
        switch entry.kind {
        case .text: "<str>"
        case .flag: "<bool (on/off)>"
        case .size: "<size>"
        case .number: "<num>"
        }
      let head = "  \(entry.name)=\(kind)"
      text += head + String(repeating: " ", count: max(0, 24 - head.count)) + " - \(entry.help)\n"
    }
    if creating != nil {
      text += "\nThe file's own options are shown when its name is given.\n"
    }
    return text
  }

  /// Whether `-o` asks for help.
  package static func asksForHelp(_ text: String) -> Bool {
    split(text).contains { $0.isSwitch && ($0.name == "help" || $0.name == "?") }
  }

  /// `name=value` pairs of a list; a word without `=` is a switch, which `no` in front turns off.
  package static func split(_ text: String) -> [(name: String, value: String, isSwitch: Bool)] {
    var words: [[UInt8]] = []
    var word: [UInt8] = []
    var inValue = false
    let bytes = Array(text.utf8)
    var index = 0
    while index < bytes.count {
      let byte = bytes[index]
      if byte == UInt8(ascii: ",") {
        if inValue, index + 1 < bytes.count, bytes[index + 1] == byte {
          word.append(byte)
          index += 2
          continue
        }
        words.append(word)
        word = []
        inValue = false
      } else {
        if byte == UInt8(ascii: "=") { inValue = true }
        word.append(byte)
      }
      index += 1
    }
    if !word.isEmpty { words.append(word) }
    return words.map { word in
      guard let equals = word.firstIndex(of: UInt8(ascii: "=")) else {
        let name = String(decoding: word, as: UTF8.self)
        if name.hasPrefix("no"), name.utf8.count > 2, name != "nocow" {
          return (String(name.dropFirst(2)), "off", true)
        }
        return (name, "on", true)
      }
      return (
        String(decoding: word[..<equals], as: UTF8.self),
        String(decoding: word[(equals + 1)...], as: UTF8.self), false
      )
    }
  }

  // MARK: - What the formats know

  private static let flags: Set<String> = ["on", "off", "yes", "no", "true", "false", "y", "n"]

  private static let size = Entry("size", .size, amend: true, help: "virtual size of the disk")

  /// In the order in which the line about a new image shows them.
  private static let qcow2: [Entry] = [
    Entry("encryption", .flag, help: "encrypt with format 'aes' (refused)"),
    Entry("encrypt.format", .text, help: "encrypt: 'aes' or 'luks' (refused)"),
    Entry("encrypt.key-secret", .text, help: "secret with the passphrase"),
    Entry("encrypt.cipher-alg", .text, help: "cipher"),
    Entry("encrypt.cipher-mode", .text, help: "mode of the cipher"),
    Entry("encrypt.ivgen-alg", .text, help: "generator of initialisation vectors"),
    Entry("encrypt.ivgen-hash-alg", .text, help: "hash of that generator"),
    Entry("encrypt.hash-alg", .text, help: "hash"),
    Entry("encrypt.iter-time", .number, help: "milliseconds to spend on deriving the key"),
    Entry("cluster_size", .size, usual: "65536", help: "size of a cluster, 512 to 2M"),
    Entry(
      "extended_l2", .flag, usual: "off", help: "32 parts of a cluster are allocated one by one"),
    Entry("preallocation", .text, help: "off, metadata, falloc or full"),
    Entry(
      "compression_type", .text, usual: "zlib", help: "how clusters are compressed: zlib or zstd"),
    size,
    Entry("compat", .text, amend: true, help: "version of the format: v2 (0.10) or v3 (1.1)"),
    Entry("backing_file", .text, amend: true, help: "image that holds what this one does not"),
    Entry("backing_fmt", .text, amend: true, help: "format of that image"),
    Entry("data_file", .text, amend: true, help: "file that takes the guest's data"),
    Entry("data_file_raw", .flag, amend: true, help: "the data file alone is a valid raw image"),
    Entry("lazy_refcounts", .flag, usual: "off", amend: true, help: "write reference counts late"),
    Entry(
      "refcount_bits", .number, usual: "16", amend: true,
      help: "width of a reference count, 1 to 64"),
  ]

  private static let file: [Entry] = [
    Entry("nocow", .flag, help: "no copy on write (btrfs)"),
    Entry("preallocation", .text, help: "off, falloc or full"),
    Entry("extent_size_hint", .size, help: "hint to the file system, 0 for none (XFS)"),
  ]
}

/// An object of `--object`.
enum ObjectDefinition {
  /// Refuses what cannot be an object that the tool needs.
  static func check(_ text: String) throws(ToolError) {
    var pairs = CreateOptions.split(text)
    guard !pairs.isEmpty else { throw ToolError("Parameter 'qom-type' is missing") }
    var type = pairs.first { $0.name == "qom-type" }?.value
    if let first = pairs.first, first.isSwitch {
      type = first.name
      pairs.removeFirst()
    }
    guard let type else { throw ToolError("Parameter 'qom-type' is missing") }
    guard ["secret", "throttle-group", "iothread"].contains(type) else {
      throw ToolError("Parameter 'qom-type' does not accept value '\(type)'")
    }
    guard pairs.contains(where: { $0.name == "id" }) else {
      throw ToolError("Parameter 'id' is missing")
    }
    guard type == "secret" else { return }
    let data = pairs.first { $0.name == "data" }
    let file = pairs.first { $0.name == "file" }
    if data == nil, file == nil {
      throw ToolError("Either 'file' or 'data' must be provided")
    }
    if data != nil, file != nil {
      throw ToolError("'file' and 'data' are mutually exclusive")
    }
    if let file {
      do throws(SystemError) {
        _ = try FileDescriptor.contents(of: file.value, limit: 1 << 20)
      } catch {
        throw ToolError("Unable to read \(file.value): \(error.reason)")
      }
    }
  }
}
