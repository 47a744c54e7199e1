// Character devices and monitors of a launch configuration.

package import QAPI

/// One character device to create.
package struct ChardevConfiguration: Sendable, Equatable {
  /// Its id (`charmonitor`, `serial0`, `compat_monitor0`).
  package var label: String
  /// What it is.
  package var backend: ChardevBackend
  /// The option it came from, for messages about opening it.
  package var origin: OptionOrigin
  /// Second line QEMU prints when the device of a short form cannot be opened; nil for `-chardev`.
  package var consequence: String?

  /// The error to print when opening fails with `reason`.
  package func failure(_ reason: String) -> OptionError {
    OptionError(.failed, origin, reason, consequence: consequence)
  }
}

/// One monitor.
package struct MonitorConfiguration: Sendable, Equatable {
  /// What is spoken.
  package enum Mode: String, Sendable {
    /// HMP, lines for people.
    case readline
    /// QMP, JSON.
    case control
  }
  /// `-mon id=`, or the label of the short form; nil for the monitor behind `mon:`.
  package var id: String?
  /// Label of its character device.
  package var chardev: String
  /// What is spoken.
  package var mode: Mode
  /// QMP with line breaks and indentation.
  package var pretty: Bool
  /// What its clients may do.
  package var access = MonitorAccess.full
  /// File in which it is noted who ran what; nil for none.
  package var auditFile: String?
  /// The option it came from.
  package var origin: OptionOrigin
}
