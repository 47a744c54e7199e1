import Host
import Machine
package import QAPI

// schemas/trace.json

extension MonitorCommands: @MainLoop TraceCommands {
  package func traceEventGetState(
    name: String, vcpu: Int?
  ) throws(QAPIError) -> [TraceEventInfo] {
    let processor = try traceProcessor(vcpu)
    return try traceEvents(name, processor).map { event in
      TraceEventInfo(
        name: event.name,
        state: Trace.state(of: event, vcpu: processor) ? .enabled : .disabled,
        vcpu: event.isPerVCPU)
    }
  }

  package func traceEventSetState(
    name: String, enable: Bool, ignoreUnavailable: Bool?, vcpu: Int?
  ) throws(QAPIError) {
    let processor = try traceProcessor(vcpu)
    // None of ours is ever unavailable, so there is nothing to ignore.
    for event in try traceEvents(name, processor) {
      Trace.set(event, enable, vcpu: processor)
    }
  }

  /// The events of a name or pattern; with a processor, only those that know processors.
  private func traceEvents(_ name: String, _ vcpu: UInt32?) throws(QAPIError) -> [TraceEvent] {
    let pattern = TracePattern(name)
    if TraceEvent(name: name) == nil, !pattern.isWildcard {
      throw QAPIError("unknown event \"\(name)\"")
    }
    let events = TraceEvent.matching(name)
    if vcpu == nil { return events }
    if !pattern.isWildcard, events.contains(where: { !$0.isPerVCPU }) {
      throw QAPIError("event \"\(name)\" is not vCPU-specific")
    }
    return events.filter(\.isPerVCPU)
  }

  private func traceProcessor(_ index: Int?) throws(QAPIError) -> UInt32? {
    guard let index else { return nil }
    guard try context.machine.vcpus.indices.contains(index) else {
      throw QAPIError("invalid vCPU index \(index)")
    }
    return UInt32(index)
  }
}
