/// What the name of an image means (`file:`, `nbd://`, relative names of backing files).
package enum FileName {
  /// The protocol that a name begins with, nil when there is none: letters before a colon that stands before the first slash.
  package static func scheme(of name: String) -> String? {
    guard
      let end = name.utf8.firstIndex(where: { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") }),
      name.utf8[end] == UInt8(ascii: ":")
    else { return nil }
    return String(name[..<end])
  }

  /// The name that `name`, found in the file `base`, means. Names with a protocol and absolute ones stay.
  package static func resolve(_ name: String, against base: String) -> String {
    if name.hasPrefix("/") || scheme(of: name) != nil || name.isEmpty { return name }
    var folder = base
    if let slash = folder.lastIndex(of: "/") {
      folder = String(folder[...slash])
    } else if let colon = scheme(of: folder).map({
      folder.index(folder.startIndex, offsetBy: $0.count)
    }) {
      folder = String(folder[...colon])
    } else {
      folder = ""
    }
    return folder + name
  }
}
