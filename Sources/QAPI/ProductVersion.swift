extension VersionInfo {
  /// The one place where the version stands: the interface is that of QEMU 7.2.22.
  package static let current = VersionInfo(
    qemu: VersionTriple(major: 7, minor: 2, micro: 22), package: "Goliath")
}

extension VersionTriple {
  /// As people write it: `7.2.22`.
  package var text: String { "\(major).\(minor).\(micro)" }
}
