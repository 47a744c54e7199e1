/// A virtual CPU's index in the machine, 0 first; the `cpu-index` of QMP.
package struct VCPUID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package init(_ rawValue: UInt32) { self.rawValue = rawValue }
  package static func < (a: VCPUID, b: VCPUID) -> Bool { a.rawValue < b.rawValue }
  package var description: String { String(rawValue) }
}

/// The identifier of a local APIC (Intel SDM vol. 3A, 11.4.6): 8 bits in xAPIC mode, 32 in x2APIC mode.
package struct APICID: RawRepresentable, Hashable, Comparable, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package init(_ rawValue: UInt32) { self.rawValue = rawValue }
  package static func < (a: APICID, b: APICID) -> Bool { a.rawValue < b.rawValue }
}

/// A global system interrupt (ACPI 6.4, 5.2.13): the number of an interrupt input of the machine.
package struct GSI: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package init(_ rawValue: UInt32) { self.rawValue = rawValue }
}
