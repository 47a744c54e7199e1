import JSON
import Support
import goliath_shell

/// The interfaces that the tests complete and explain: the project's, and QEMU 7.2's.
enum Golden {
  static let schema = read("Tests/Golden/qmp-schema.json")
  static let qemu = read("Tests/Golden/qemu-7.2-schema.json")

  private static func read(_ path: String) -> APISchema? {
    (try? JSONValue(parsing: Checkout.text(path))).flatMap { APISchema($0) }
  }
}
