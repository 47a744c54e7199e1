import CPU
import DeviceModel
import Host

/// The board of a node without devices: its vCPUs find everything on node 0.
@MainLoop
final class RemoteBoard: Board {
  let devices: [PlacedDevice] = []
  let generation = 0
  var start = ResetState()

  func prepareStart(_ threads: [VCPUThread]) throws(MachineError) {
    guard !start.isEmpty else { return }
    do {
      for thread in threads {
        var state = try thread.vcpu.readState()
        if thread.vcpu.id.rawValue == 0 { start.bootProcessor?.apply(to: &state) }
        state.msrs.merge(start.registers) { _, planned in planned }
        try thread.vcpu.writeState(state)
      }
    } catch {
      throw MachineError(error.message)
    }
  }

  func prepareWake() {}
  func finishWake(_ threads: [VCPUThread]) throws(MachineError) {}
  func pressPowerButton() -> Bool { false }
  func changeBootOrder(to order: String) -> Bool { false }
}
