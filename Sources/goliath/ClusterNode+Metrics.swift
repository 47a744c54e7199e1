import Cluster
import DistIRQ
import Host
import Machine
import Monitor

// What this node's machine and others ask of each other, for metrics (distributed.md, section 13).
extension ClusterNode {
  func writeMetrics(into text: inout MetricsText) {
    let node: MetricsText.Labels = [("node", String(joined.node.rawValue))]
    let counters = seat.counters
    text.family(
      "goliath_ipi_total", .counter, "Interrupts that vCPUs and devices here sent to vCPUs."
    ) { family in
      for mode in DeliveryMode.allCases where mode != .reserved {
        let index = Int(mode.rawValue)
        family.add(
          counters.remoteInterrupts[index], node + [("mode", Self.word(mode)), ("remote", "yes")])
        if let local = machineParts?.localCounts {
          family.add(local[mode], node + [("mode", Self.word(mode)), ("remote", "no")])
        }
      }
    }
    let sent = DeliveryMode.allCases.reduce(0 as UInt64) {
      $0 &+ counters.remoteInterrupts[Int($1.rawValue)]
    }
    text.family(
      "goliath_ipi_seconds", .summary, "Time that senders of interrupts to other nodes spent."
    ) { $0.addSummary(sum: Double(counters.interruptTime[0]) / 1e9, count: sent, node) }
    text.family(
      "goliath_io_forward_total", .counter, "Device accesses of vCPUs here that node 0 made."
    ) { family in
      for kind in SeatCounters.Access.allCases {
        family.add(counters.accesses[kind.rawValue], node + [("kind", kind.word)])
      }
    }
    text.family("goliath_io_forward_seconds", .summary, "Time that vCPUs waited for them.") {
      for kind in SeatCounters.Access.allCases {
        $0.addSummary(
          sum: Double(counters.accessTime[kind.rawValue]) / 1e9,
          count: counters.accesses[kind.rawValue], node + [("kind", kind.word)])
      }
    }
    text.single(
      "goliath_eoi_forward_total", .counter, "Ends of level-triggered interrupts told to node 0.",
      counters.endsOfInterrupt[0], node)
  }

  private static func word(_ mode: DeliveryMode) -> String {
    switch mode {
    case .fixed: "fixed"
    case .lowestPriority: "lowest"
    case .smi: "smi"
    case .reserved: "reserved"
    case .nmi: "nmi"
    case .initialize: "init"
    case .startUp: "startup"
    case .external: "external"
    }
  }
}
