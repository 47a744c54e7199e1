import CPU
import Chardev
import DeviceModel
import Foundation
import Host
import JSON
import Machine
import Monitor
import Options
import QAPI
import Shm
import Support

/// An accelerator for machines without vCPUs.
private struct NoAccelerator: Accelerator {
  final class VM: VirtualMachine {
    let tscFrequency: UInt64 = 1_000_000_000
    let statistics: String? = nil
    func makeVCPU(
      id: VCPUID, apicID: APICID, host: any VCPUHost
    ) throws(AcceleratorError) -> any VCPU {
      throw AcceleratorError(.unsupported, "no vCPUs here")
    }
  }
  let name = "tcg"
  func makeVM(memory: GuestMemory, cpuid: CPUIDTable) throws(AcceleratorError) -> any VirtualMachine
  { VM() }
}

/// A machine of type `none` with QMP monitors on Unix sockets, in this process.
@MainLoop
final class MonitoredMachine {
  let context = MonitorContext()
  private let chardevs = ChardevRegistry()
  private let configuration: LaunchConfiguration
  private var monitors: [QMPMonitor] = []
  private var machine: Machine?
  /// What the process would have ended with.
  private(set) var exitStatus: Int32?
  nonisolated let folder: String

  /// Makes monitors, labelled `m0`, `m1`…; the machine follows with `start`.
  init(
    monitors count: Int = 1, pretty: Bool = false, access: MonitorAccess = .full,
    audit: AuditLog? = nil
  ) throws {
    folder = Goliath.temporaryFolder()
    let plan = try CommandLineParser().parse(
      ["-M", "none", "-name", "guest", "-nodefaults"], programName: "test")
    guard case .run(let configuration) = plan.action else {
      throw SystemError(call: "parse", code: 0)
    }
    self.configuration = configuration
    for number in 0..<count {
      let address = SocketAddressLegacy.unix(UnixSocketAddress(path: path(number)))
      let socket = ChardevSocket(addr: address, server: true, wait: false)
      let chardev = try chardevs.create("m\(number)", .socket(socket))
      monitors.append(
        try QMPMonitor(
          on: chardev, isPretty: pretty, access: access, audit: audit, context: context))
    }
  }

  /// The socket of a monitor.
  nonisolated func path(_ number: Int = 0) -> String { "\(folder)/m\(number)" }

  /// Makes the machine and gives it to the monitors.
  func start() throws {
    let events = context.events
    let machine = try Machine(
      configuration, accelerator: NoAccelerator(), cpuid: CPUIDTable(), apicIDs: [],
      chardevs: chardevs, onEvent: { events.emit($0) },
      onExit: { [weak self] in self?.exitStatus = $0 })
    self.machine = machine
    context.start(machine, cpuCapabilities: CPUCapabilities(tcgOn: CPUIDTable()))
  }

  /// Sends events, one after the other.
  func emit(_ events: [Event]) {
    for event in events { context.events.emit(event) }
  }

  /// Closes everything.
  func shutDown() {
    machine?.tearDown()
    chardevs.shutDown()
    try? FileManager.default.removeItem(atPath: folder)
  }

  /// Runs a test with a machine, started unless told not to, and clears up.
  nonisolated static func run(
    monitors: Int = 1, pretty: Bool = false, started: Bool = true, access: MonitorAccess = .full,
    audit: AuditLog? = nil,
    _ body: @Sendable (MonitoredMachine) async throws -> Void
  ) async throws {
    MainLoopThread.start()
    let machine = try await MonitoredMachine(
      monitors: monitors, pretty: pretty, access: access, audit: audit)
    if started { try await machine.start() }
    do { try await body(machine) } catch {
      await machine.shutDown()
      throw error
    }
    await machine.shutDown()
  }
}
