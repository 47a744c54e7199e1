package import DeviceModel
package import Shm

/// `vmcoreinfo`: the guest's kernel tells through a file of fw_cfg where its note about itself is, which dumps then carry for
/// `crash` and `makedumpfile` (QEMU docs, specs/vmcoreinfo).
package final class VMCoreInfo: Device {
  package static let type = DeviceType(
    name: "vmcoreinfo", parent: "device", bus: nil, description: "", isUserCreatable: true)

  /// What the file holds: two formats of 16 bits, a size of 32, an address of 64, little-endian.
  package struct Location: Equatable, Sendable {
    package let address: GuestAddress
    package let size: Int

    /// Longest note that is believed.
    package static let sizeLimit = 1 << 20

    /// Nil when the guest has said nothing that makes sense.
    package init?(parsing file: [UInt8]) {
      guard file.count == 16 else { return nil }
      func number(_ range: Range<Int>) -> UInt64 {
        range.reversed().reduce(0) { $0 << 8 | UInt64(file[$1]) }
      }
      // The guest's format must be ELF.
      guard number(2..<4) == VMCoreInfo.elf else { return nil }
      let size = Int(number(4..<8))
      guard (12...Location.sizeLimit).contains(size) else { return nil }
      self.size = size
      address = GuestAddress(number(8..<16))
    }
  }

  private static let elf: UInt64 = 1
  private static let fileName = "etc/vmcoreinfo"
  private let configuration: FwCfg

  package init(_ configuration: FwCfg) { self.configuration = configuration }

  package func realize(in context: MachineContext) throws(DeviceError) {
    guard configuration.file(VMCoreInfo.fileName) == nil else {
      throw DeviceError(.busy, "at most one vmcoreinfo device is permitted")
    }
    try publish()
  }

  package func reset(_ kind: ResetKind) {
    // The name is in the directory already, so there is room.
    try? publish()
  }

  private func publish() throws(DeviceError) {
    let empty = [UInt8(VMCoreInfo.elf)] + [UInt8](repeating: 0, count: 15)
    try configuration.setFile(VMCoreInfo.fileName, empty, isWritable: true)
  }

  /// Where the guest's note is, once it has said so.
  package var location: Location? {
    configuration.file(VMCoreInfo.fileName).flatMap { Location(parsing: $0) }
  }
}
