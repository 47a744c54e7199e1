/// Drive letters in the order in which they are tried (`-boot order=`, the human monitor's `boot_set`).
package enum BootOrder {
  /// QEMU's sentence about what is wrong with an order; nil when it is right: letters `a` to `p`, each at most once, and on a PC
  /// three of its four kinds, as its CMOS holds no more.
  package static func complaint(about order: String, isPC: Bool) -> String? {
    var seen: Set<Character> = []
    for letter in order {
      guard ("a"..."p").contains(letter) else { return "Invalid boot device '\(letter)'" }
      guard seen.insert(letter).inserted else {
        return "Boot device '\(letter)' was given twice"
      }
    }
    guard isPC else { return nil }
    if order.utf8.count > 3 { return "Too many boot devices for PC" }
    if let letter = order.first(where: { !"abcdn".contains($0) }) {
      return "Invalid boot device for PC: '\(letter)'"
    }
    return nil
  }
}
