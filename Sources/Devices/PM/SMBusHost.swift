/// The SMBus host controller of the PIIX4 (Intel 82371AB, 7.3): registers, and a bus with nobody on it.
///
/// Every transfer ends with "device error", which is what an address that nobody acknowledges gives.
package struct SMBusHost: Equatable, Sendable {
  private var status: UInt8 = 0
  private var control: UInt8 = 0
  private var command: UInt8 = 0
  private var address: UInt8 = 0
  private var data: [UInt8] = [0, 0]

  private static let deviceError: UInt8 = 0x04
  private static let start: UInt8 = 0x40

  package init() {}

  package mutating func read(_ offset: Int) -> UInt8 {
    switch offset {
    case 0: return status
    case 2: return control & 0x1F
    case 3: return command
    case 4: return address
    case 5, 6: return data[offset - 5]
    default: return 0
    }
  }

  package mutating func write(_ offset: Int, _ value: UInt8) {
    switch offset {
    case 0: status &= ~(value & 0x1E)
    case 2:
      control = value
      if value & SMBusHost.start != 0 { status |= SMBusHost.deviceError }
    case 3: command = value
    case 4: address = value
    case 5, 6: data[offset - 5] = value
    default: break
    }
  }
}
