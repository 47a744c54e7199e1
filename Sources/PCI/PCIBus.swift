package import DeviceModel
import Synchronization

/// One function on the bus: answers configuration cycles. Called on vCPU threads.
package protocol PCIFunction: AnyObject, Sendable {
  /// Little-endian, `width` 1, 2 or 4, not across a doubleword.
  func readConfiguration(_ offset: Int, width: Int) -> UInt32
  func writeConfiguration(_ offset: Int, width: Int, _ value: UInt32)
}

/// PCI bus 0: which function sits where, and where interrupt pins go.
package final class PCIBus: Sendable {
  private struct State {
    var functions = [(any PCIFunction)?](repeating: nil, count: 256)
    var router: (@Sendable (_ source: PCIPinSource, _ level: Bool) -> Void)?
  }
  private let state = Mutex(State())

  package init() {}

  /// Puts a function on the bus. Throws `busy` when the place is taken.
  package func plug(_ function: any PCIFunction, at address: PCIAddress) throws(DeviceError) {
    let taken = state.withLock { state in
      let taken = state.functions[Int(address.devfn)] != nil
      if !taken { state.functions[Int(address.devfn)] = function }
      return taken
    }
    if taken {
      throw DeviceError(
        .busy, "PCI: slot \(address.device) function \(address.function) already in use")
    }
  }

  /// Takes a function off the bus.
  package func unplug(_ address: PCIAddress) {
    state.withLock { $0.functions[Int(address.devfn)] = nil }
  }

  /// The first device number from `first` on whose function 0 is free; nil when the bus is full.
  package func freeDevice(from first: UInt8 = 2) -> PCIAddress? {
    state.withLock { state in
      for device in first..<32 where state.functions[Int(device) << 3] == nil {
        return PCIAddress(device: device)
      }
      return nil
    }
  }

  package func function(at address: PCIAddress) -> (any PCIFunction)? {
    state.withLock { $0.functions[Int(address.devfn)] }
  }

  /// All functions by address.
  package var functions: [(address: PCIAddress, function: any PCIFunction)] {
    let table = state.withLock { $0.functions }
    return table.enumerated().compactMap { index, function in
      function.map { (PCIAddress(devfn: UInt8(truncatingIfNeeded: index)), $0) }
    }
  }

  /// The bridge that pins end at.
  package func setRouter(
    _ router: @escaping @Sendable (_ source: PCIPinSource, _ level: Bool) -> Void
  ) {
    state.withLock { $0.router = router }
  }

  /// The wire of a function's interrupt `pin` (1 to 4 for INTA# to INTD#).
  package func interruptLine(of address: PCIAddress, pin: UInt8) -> InterruptLine {
    let source = PCIPinSource(device: address.device, function: address.function, pin: pin)
    return InterruptLine { [weak self] level in
      self?.state.withLock { $0.router }?(source, level)
    }
  }
}

/// A function's interrupt pin.
package struct PCIPinSource: Hashable, Sendable {
  package let device: UInt8
  package let function: UInt8
  /// 1 to 4 for INTA# to INTD#.
  package let pin: UInt8

  package init(device: UInt8, function: UInt8, pin: UInt8) {
    self.device = device & 31
    self.function = function & 7
    self.pin = (pin &- 1) & 3 &+ 1
  }
}

/// Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2): the address latch at 0xCF8, data at 0xCFC, and in between, at 0xCF9, the reset
/// control register that byte accesses reach.
package struct PCIConfigurationAccess: Equatable, Sendable {
  package private(set) var address: UInt32 = 0

  package init() {}

  /// What an access to ports 0xCF8 + `offset` is for.
  package enum Target: Equatable, Sendable {
    case addressLatch
    case resetControl
    case configuration(PCIAddress, offset: Int)
    case nothing
  }

  package func target(offset: UInt64, width: Int) -> Target {
    switch offset {
    case 0 where width == 4: return .addressLatch
    case 1 where width == 1: return .resetControl
    case 4...7:
      guard address & 0x8000_0000 != 0, address & 0x00FF_0000 == 0 else { return .nothing }
      let register = Int(address & 0xFC) | Int(offset & 3)
      return .configuration(PCIAddress(devfn: UInt8(address >> 8 & 0xFF)), offset: register)
    default: return .nothing
    }
  }

  /// Bits 1 and 0 are wired to zero, 30 to 24 reserved.
  package mutating func latch(_ value: UInt32) { address = value & 0x80FF_FFFC }
}
