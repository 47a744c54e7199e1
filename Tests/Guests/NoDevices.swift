package import CPU
package import Shm

/// A machine without devices.
package final class NoDevices: VCPUHost {
  package init() {}

  package func readPort(_ port: UInt16, width: Int) -> UInt32 { UInt32.max }
  package func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  package func readMemory(_ address: GuestAddress, width: Int) -> UInt64 { UInt64.max }
  package func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {}
  package func readMSR(_ index: UInt32) -> UInt64? { nil }
  package func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool { false }
  package var taskPriority: UInt8 {
    get { 0 }
    set {}
  }
  package var isA20Enabled: Bool { true }
  package func setA20(_ enabled: Bool) {}
}
