import Synchronization

/// The points of the program that can be traced. Names are QEMU's where QEMU has the same point, so that scripts keep working; ours begin
/// with `x_`.
package enum TraceEvent: UInt8, CaseIterable, Sendable {
  case memoryRegionOpsRead, memoryRegionOpsWrite
  case serialRead, serialWrite
  case pciCfgRead, pciCfgWrite
  case fwCfgSelect
  case watchdogPerformAction, watchdogSetAction
  case runstateSet, vmStateNotify
  case systemWakeupRequest, qemuSystemShutdownRequest, qemuSystemPowerdownRequest
  case guestCPUEnter, guestCPUExit, guestCPUReset
  case cpuInterrupt, cpuHalt
  case messageSignalledInterrupt
  case monitorProtocolEventEmit, monitorProtocolEventQueue
  case handleQMPCommand, monitorQMPCommandInBand, monitorQMPCommandOutOfBand, monitorQMPRespond
  case handleHMPCommand
  case jobStateTransition, jobApplyVerb, jobCompleted
  case dumpBegin, dumpEnd
  case chardevOpened, chardevClosed

  /// The name by which users switch it.
  package var name: String {
    switch self {
    case .memoryRegionOpsRead: "memory_region_ops_read"
    case .memoryRegionOpsWrite: "memory_region_ops_write"
    case .serialRead: "serial_read"
    case .serialWrite: "serial_write"
    case .pciCfgRead: "pci_cfg_read"
    case .pciCfgWrite: "pci_cfg_write"
    case .fwCfgSelect: "fw_cfg_select"
    case .watchdogPerformAction: "watchdog_perform_action"
    case .watchdogSetAction: "watchdog_set_action"
    case .runstateSet: "runstate_set"
    case .vmStateNotify: "vm_state_notify"
    case .systemWakeupRequest: "system_wakeup_request"
    case .qemuSystemShutdownRequest: "qemu_system_shutdown_request"
    case .qemuSystemPowerdownRequest: "qemu_system_powerdown_request"
    case .guestCPUEnter: "guest_cpu_enter"
    case .guestCPUExit: "guest_cpu_exit"
    case .guestCPUReset: "guest_cpu_reset"
    case .cpuInterrupt: "x_cpu_interrupt"
    case .cpuHalt: "x_cpu_halt"
    case .messageSignalledInterrupt: "x_msi"
    case .monitorProtocolEventEmit: "monitor_protocol_event_emit"
    case .monitorProtocolEventQueue: "monitor_protocol_event_queue"
    case .handleQMPCommand: "handle_qmp_command"
    case .monitorQMPCommandInBand: "monitor_qmp_cmd_in_band"
    case .monitorQMPCommandOutOfBand: "monitor_qmp_cmd_out_of_band"
    case .monitorQMPRespond: "monitor_qmp_respond"
    case .handleHMPCommand: "handle_hmp_command"
    case .jobStateTransition: "job_state_transition"
    case .jobApplyVerb: "job_apply_verb"
    case .jobCompleted: "job_completed"
    case .dumpBegin: "x_dump_begin"
    case .dumpEnd: "x_dump_end"
    case .chardevOpened: "x_chardev_opened"
    case .chardevClosed: "x_chardev_closed"
    }
  }

  /// Whether it can be switched for one virtual processor.
  package var isPerVCPU: Bool {
    switch self {
    case .guestCPUEnter, .guestCPUExit, .guestCPUReset, .cpuInterrupt, .cpuHalt: true
    default: false
    }
  }

  /// The event of that name.
  package init?(name: String) {
    guard let event = TraceEvent.allCases.first(where: { $0.name == name }) else { return nil }
    self = event
  }

  /// All whose names fit a pattern: `*` stands for any characters, `?` for one.
  package static func matching(_ pattern: String) -> [TraceEvent] {
    allCases.filter { TracePattern.matches($0.name, pattern) }
  }
}

/// Which trace events are written to the log (the backend that QEMU calls `log`). Switched from the main loop, asked on any thread.
package enum Trace {
  // A bit for each event that is on for all or for some processors; read on hot paths, so no lock.
  private static let enabled = Atomic<UInt64>(0)

  private struct Processors: Sendable {
    /// Events that are on everywhere.
    var everywhere: UInt64 = 0
    /// For the others, the processors for which they are on.
    var chosen: [TraceEvent: Set<UInt32>] = [:]
  }
  private static let processors = Mutex(Processors())

  /// Whether the event is written for any processor: one relaxed load and a test.
  @inline(__always)
  package static func isOn(_ event: TraceEvent) -> Bool {
    enabled.load(ordering: .relaxed) & (1 &<< UInt64(event.rawValue)) != 0
  }

  /// Switches an event, for one processor or for all.
  package static func set(_ event: TraceEvent, _ on: Bool, vcpu: UInt32? = nil) {
    let bit: UInt64 = 1 << UInt64(event.rawValue)
    processors.withLock { state in
      if let vcpu {
        if on {
          state.chosen[event, default: []].insert(vcpu)
        } else {
          state.chosen[event]?.remove(vcpu)
        }
      } else {
        state.chosen[event] = nil
        state.everywhere = on ? state.everywhere | bit : state.everywhere & ~bit
      }
      let isOn = state.everywhere & bit != 0 || state.chosen[event]?.isEmpty == false
      if isOn {
        enabled.bitwiseOr(bit, ordering: .releasing)
      } else {
        enabled.bitwiseAnd(~bit, ordering: .releasing)
      }
    }
  }

  /// Whether an event is on, for one processor or for any.
  package static func state(of event: TraceEvent, vcpu: UInt32? = nil) -> Bool {
    guard let vcpu else { return isOn(event) }
    return processors.withLock { state in
      state.everywhere & (1 << UInt64(event.rawValue)) != 0
        || state.chosen[event]?.contains(vcpu) == true
    }
  }

  /// Writes a line: the event's name and `text`, if the event is on.
  @inline(__always)
  package static func write(_ event: TraceEvent, _ text: @autoclosure () -> String) {
    if isOn(event) { emit(event, text()) }
  }

  /// The same for an event of a processor.
  @inline(__always)
  package static func write(_ event: TraceEvent, vcpu: UInt32, _ text: @autoclosure () -> String) {
    if isOn(event), state(of: event, vcpu: vcpu) { emit(event, text()) }
  }

  private static func emit(_ event: TraceEvent, _ text: String) {
    Log.writeTrace(text.isEmpty ? event.name : "\(event.name) \(text)")
  }

  /// A number as trace lines show it.
  package static func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
}

/// One line of `-trace events=` or one pattern of `-trace`: a pattern, with `-` before it to switch off.
package struct TracePattern: Equatable, Sendable {
  package let pattern: String
  package let enables: Bool

  package init(_ text: String) {
    enables = !text.hasPrefix("-")
    pattern = enables ? text : String(text.dropFirst())
  }

  package var isWildcard: Bool { pattern.contains { $0 == "*" || $0 == "?" } }

  /// Switches what it says; false when a single name is no event.
  package func apply() -> Bool {
    let events = TraceEvent.matching(pattern)
    for event in events { Trace.set(event, enables) }
    return isWildcard || !events.isEmpty
  }

  /// The patterns of a file: a line each, comments from `#`.
  package static func lines(of text: String) -> [TracePattern] {
    text.split(whereSeparator: \.isNewline).compactMap { line in
      let word = line.drop { $0 == " " || $0 == "\t" }
      guard let first = word.first, first != "#" else { return nil }
      return TracePattern(String(word.prefix { $0 != " " && $0 != "\t" }))
    }
  }

  /// Whether `text` fits a pattern with `*` and `?`. Takes time in proportion to both lengths.
  package static func matches(_ text: String, _ pattern: String) -> Bool {
    let text = Array(text.utf8)
    let pattern = Array(pattern.utf8)
    var (at, position) = (0, 0)
    var star: Int?
    var resume = 0
    while at < text.count {
      if position < pattern.count, pattern[position] == UInt8(ascii: "*") {
        star = position
        resume = at
        position += 1
      } else if position < pattern.count,
        pattern[position] == UInt8(ascii: "?") || pattern[position] == text[at]
      {
        at += 1
        position += 1
      } else if let star {
        position = star + 1
        resume += 1
        at = resume
      } else {
        return false
      }
    }
    return pattern[position...].allSatisfy { $0 == UInt8(ascii: "*") }
  }
}
