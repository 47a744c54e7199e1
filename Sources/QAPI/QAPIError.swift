package import JSON

/// A command's failure as a client sees it (QMP error object).
package struct QAPIError: Error, Equatable, Sendable {
  /// The classes that clients tell apart; nearly everything is `generic`.
  package enum Class: String, Sendable {
    case generic = "GenericError"
    case commandNotFound = "CommandNotFound"
    case deviceNotActive = "DeviceNotActive"
    case deviceNotFound = "DeviceNotFound"
    case kvmMissingCapability = "KVMMissingCap"
  }

  /// The error's class.
  package let errorClass: Class
  /// One sentence without a full stop; clients compare some of them with QEMU's wording.
  package let description: String

  /// An error of any class.
  package init(_ errorClass: Class, _ description: String) {
    self.errorClass = errorClass
    self.description = description
  }

  /// An error of class GenericError.
  package init(_ description: String) { self.init(.generic, description) }

  /// The error object: `class` and `desc`.
  package var encoded: JSONValue {
    ["class": .string(errorClass.rawValue), "desc": .string(description)]
  }
}

extension QAPIError {
  /// A required member is absent.
  package static func missing(_ path: String) -> QAPIError {
    QAPIError("Parameter '\(path)' is missing")
  }

  /// A value of the wrong JSON type; `expected` is QEMU's word for the right one.
  package static func wrongType(_ path: String, expected: String) -> QAPIError {
    QAPIError("Invalid parameter type for '\(path)', expected: \(expected)")
  }

  /// A value that is not among those allowed.
  package static func badValue(_ name: String, _ value: String) -> QAPIError {
    QAPIError("Parameter '\(name)' does not accept value '\(value)'")
  }

  /// A value that does not fit; `what` says what would.
  package static func expects(_ name: String, _ what: String) -> QAPIError {
    QAPIError("Parameter '\(name)' expects \(what)")
  }

  /// A member that the type does not have.
  package static func unexpected(_ path: String) -> QAPIError {
    QAPIError("Parameter '\(path)' is unexpected")
  }
}
