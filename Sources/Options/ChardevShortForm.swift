// The short forms of -serial, -monitor, -qmp, …: `stdio`, `unix:PATH,server=on`, `mon:stdio`.

/// Translation of a short form into parameters of the group `chardev`.
enum ChardevShortForm {
  /// The parameters that `text` stands for. Throws QEMU's sentence about forms that do not exist.
  static func parameters(
    _ text: String, _ origin: OptionOrigin
  ) throws(OptionError) -> [OptionEntry] {
    var rest = text[...]
    var pairs: [KeyValuePair] = []
    if rest.hasPrefix("mon:") {
      rest = rest.dropFirst(4)
      pairs.append(KeyValuePair("mux", "on"))
      // Ctrl-C goes to the guest, as it did before this form existed.
      if rest == "stdio" { pairs.append(KeyValuePair("signal", "off")) }
    }
    pairs += try backend(rest, origin)
    return pairs.map { OptionEntry(key: $0.key, value: $0.value, origin: origin) }
  }

  private static func backend(
    _ text: Substring, _ origin: OptionOrigin
  ) throws(OptionError) -> [KeyValuePair] {
    func backend(_ name: String) -> KeyValuePair { KeyValuePair("backend", name) }
    func after(_ prefix: String) -> Substring? {
      text.hasPrefix(prefix) ? text.dropFirst(prefix.count) : nil
    }
    switch text {
    case "null", "pty", "stdio", "msmouse", "wctablet", "braille", "testdev", "vc":
      return [backend(String(text))]
    default: break
    }
    if let size = after("vc:") { return [backend("vc")] + (try consoleSize(size, origin)) }
    for name in ["file", "pipe"] {
      guard let path = after("\(name):") else { continue }
      return [backend(name)] + KeyValueText.split(String(path), impliedKey: "path")
    }
    if let path = after("unix:") {
      let pairs = KeyValueText.split(String(path), impliedKey: "path")
      guard let first = pairs.first, !(first.key == "path" && first.value.isEmpty) else {
        throw OptionError(.invalidValue, origin, "unix: needs a path")
      }
      return [backend("socket")] + pairs
    }
    for name in ["tcp", "telnet", "tn3270", "websocket"] {
      guard let address = after("\(name):") else { continue }
      let (host, port, options) = try hostAndPort(address, stops: ",", origin)
      return [backend("socket"), KeyValuePair("host", host), KeyValuePair("port", port)]
        + (name == "tcp" ? [] : [KeyValuePair(name, "on")])
        + KeyValueText.split(String(options.dropFirst()), impliedKey: nil)
    }
    if let address = after("udp:") {
      var (host, port, rest) = try hostAndPort(address, stops: ",@", origin)
      var pairs = [backend("udp"), KeyValuePair("host", host), KeyValuePair("port", port)]
      if rest.hasPrefix("@") {
        (host, port, rest) = try hostAndPort(rest.dropFirst(), stops: ",", origin)
        pairs += [KeyValuePair("localaddr", host), KeyValuePair("localport", port)]
      }
      return pairs + KeyValueText.split(String(rest.dropFirst()), impliedKey: nil)
    }
    if text.hasPrefix("/dev/parport") || text.hasPrefix("/dev/ppi") {
      return [backend("parallel"), KeyValuePair("path", String(text))]
    }
    if text.hasPrefix("/dev/") { return [backend("serial"), KeyValuePair("path", String(text))] }
    let word = String(text.prefix { $0 != ":" && $0 != "," })
    throw OptionError(
      .invalidValue, origin, "'\(text)' is not a valid char driver",
      suggestion: forms.contains(word) ? nil : Spelling.nearest(to: word, among: forms))
  }

  private static let forms = [
    "none", "null", "pty", "stdio", "vc", "file", "pipe", "unix", "tcp", "telnet", "tn3270",
    "websocket", "udp", "chardev", "mon",
  ]

  /// `HOST:PORT`, the host possibly empty or in brackets; what follows the port is returned as is.
  private static func hostAndPort(
    _ text: Substring, stops: String, _ origin: OptionOrigin
  ) throws(OptionError) -> (host: String, port: String, rest: Substring) {
    var host = text.prefix { $0 != ":" }
    var rest = text[host.endIndex...]
    if text.hasPrefix("["), let close = text.firstIndex(of: "]") {
      host = text[text.index(after: text.startIndex)..<close]
      rest = text[text.index(after: close)...]
    }
    let port = rest.dropFirst().prefix { !stops.contains($0) }
    guard rest.hasPrefix(":"), !port.isEmpty, !host.contains(",") else {
      throw OptionError(.invalidValue, origin, "'\(text)' is not HOST:PORT")
    }
    return (String(host), String(port), rest[port.endIndex...])
  }

  /// `640x480` in pixels or `80Cx24C` in characters.
  private static func consoleSize(
    _ text: Substring, _ origin: OptionOrigin
  ) throws(OptionError) -> [KeyValuePair] {
    func digits(_ text: Substring, _ suffix: String) -> String? {
      let number = text.hasSuffix(suffix) ? text.dropLast(suffix.count) : text
      return number.isEmpty || !number.utf8.allSatisfy { (0x30...0x39).contains($0) }
        || number.utf8.count > 7 ? nil : String(number)
    }
    let sides = text.split(separator: "x", omittingEmptySubsequences: false)
    if sides.count == 2 {
      if sides[0].hasSuffix("C") {
        if let columns = digits(sides[0], "C"), let rows = digits(sides[1], "C") {
          return [KeyValuePair("cols", columns), KeyValuePair("rows", rows)]
        }
      } else if let width = digits(sides[0], ""), let height = digits(sides[1], "") {
        return [KeyValuePair("width", width), KeyValuePair("height", height)]
      }
    }
    throw OptionError(
      .invalidValue, origin, "'\(text)' is no console size (WIDTHxHEIGHT or COLSCxROWSC)")
  }
}
