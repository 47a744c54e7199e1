/// One interrupt wire as the device that drives it sees it; where it ends is the board's business.
///
/// Calls may come from any thread, with no lock held.
package struct InterruptLine: Sendable {
  private let drive: @Sendable (Bool) -> Void

  /// A line whose level goes to `drive`.
  package init(_ drive: @escaping @Sendable (Bool) -> Void) { self.drive = drive }

  /// A line that ends nowhere.
  package static let unconnected = InterruptLine { _ in }

  /// Sets the level; the same level again is harmless.
  package func set(_ level: Bool) { drive(level) }
  package func raise() { drive(true) }
  package func lower() { drive(false) }

  /// An edge: up and down again.
  package func pulse() {
    drive(true)
    drive(false)
  }
}
