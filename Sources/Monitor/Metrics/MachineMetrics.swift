import Cluster
import DeviceModel
package import Host
import Machine
import Options
import QAPI
import Shm

/// The numbers of this process, its machine and its cluster.
@MainLoop
package enum MachineMetrics {
  /// All of them, as they are now.
  package static func text(_ context: MonitorContext) -> String {
    var text = MetricsText()
    process(into: &text)
    machine(context, into: &text)
    if let cluster = context.cluster { ClusterMetrics.write(cluster.control, into: &text) }
    return text.text
  }

  /// Names as other programs' client libraries have them.
  private static func process(into text: inout MetricsText) {
    guard let usage = ProcessUsage.current else { return }
    text.single(
      "process_cpu_seconds_total", .counter, "Processor time of the process.", usage.cpuSeconds)
    text.single(
      "process_resident_memory_bytes", .gauge, "Memory of the process in RAM.",
      usage.residentBytes)
    text.single(
      "process_virtual_memory_bytes", .gauge, "Address space of the process.", usage.virtualBytes)
    text.single("process_threads", .gauge, "Threads of the process.", usage.threads)
    text.single(
      "process_start_time_seconds", .gauge, "When the process started, since 1970.",
      usage.startSeconds)
    if let count = usage.descriptors {
      text.single("process_open_fds", .gauge, "Open descriptors of the process.", count)
    }
  }

  private static func machine(_ context: MonitorContext, into text: inout MetricsText) {
    guard let machine = try? context.machine else { return }
    let configuration = machine.configuration
    text.single(
      "goliath_info", .gauge, "What runs; always 1.", 1,
      [
        ("version", VersionInfo.current.qemu.text), ("machine", configuration.machine.type),
        ("accelerator", machine.acceleratorName), ("guest", configuration.name.guest ?? ""),
      ])
    let commands = MonitorCommands(context)
    if let status = try? commands.queryStatus() {
      text.single(
        "goliath_vm_running", .gauge, "1 while the guest runs, 0 while it is stopped.",
        status.running)
      text.single(
        "goliath_vm_state", .gauge, "The state's name; always 1.", 1,
        [("state", status.status.rawValue)])
    }
    text.single("goliath_vm_vcpus", .gauge, "vCPUs of the whole machine.", configuration.smp.cpus)
    text.single(
      "goliath_vm_ram_bytes", .gauge, "RAM of the guest.", configuration.memory.size)
    let vcpus = machine.vcpus
    text.family(
      "goliath_vcpu_cpu_seconds_total", .counter, "Processor time of the threads of vCPUs here."
    ) { family in
      for vcpu in vcpus {
        guard let seconds = ProcessUsage.cpuSeconds(ofThread: vcpu.threadID) else { continue }
        family.add(seconds, [("vcpu", String(vcpu.id.rawValue))])
      }
    }
    text.family("goliath_vcpu_halted", .gauge, "1 while a vCPU here waits for an interrupt.") {
      for vcpu in vcpus { $0.add(vcpu.isHalted, [("vcpu", String(vcpu.id.rawValue))]) }
    }
  }
}

/// The numbers of a machine on several nodes (distributed.md, section 13). Every sample says which node tells it.
@MainLoop
enum ClusterMetrics {
  static func write(_ control: any ClusterControl, into text: inout MetricsText) {
    let info = control.status
    let node: MetricsText.Labels = [("node", String(info.node))]
    text.family("goliath_cluster_state", .gauge, "1 for the state that the cluster is in.") {
      for state in ClusterState.allCases {
        $0.add(state == info.state, node + [("state", state.rawValue)])
      }
    }
    text.single(
      "goliath_cluster_epoch", .gauge, "Incarnation of the cluster.", info.epoch, node)
    let peers = info.nodes.filter { $0.node != info.node }
    func each(_ family: inout MetricsText.Family, _ value: (ClusterNodeInfo) -> Double?) {
      for peer in peers {
        if let value = value(peer) { family.add(value, node + [("peer", String(peer.node))]) }
      }
    }
    text.family("goliath_peer_up", .gauge, "1 while another node is there.") { family in
      for peer in peers {
        family.add(info.reaches(peer.node), node + [("peer", String(peer.node))])
      }
    }
    text.family("goliath_peer_rtt_seconds", .gauge, "Round trip to another node.") {
      each(&$0) { $0.rttUs.map { $0 / 1e6 } }
    }
    text.family(
      "goliath_peer_clock_error_seconds", .gauge, "Bound of the error of another node's clock."
    ) { each(&$0) { $0.clockErrorNs.map { Double($0) / 1e9 } } }
    text.family(
      "goliath_peer_heartbeat_age_seconds", .gauge, "Time since another node was heard of."
    ) { each(&$0) { $0.lastHeartbeatMs.map { Double($0) / 1e3 } } }
    if let counters = control.frameCounters { frames(counters, node, into: &text) }
    if let memory = control.memoryCounters { pages(memory, node, into: &text) }
    control.writeMetrics(into: &text)
  }

  private static func frames(
    _ counters: FrameCounters, _ node: MetricsText.Labels, into text: inout MetricsText
  ) {
    let directions: [(FrameCounters.Direction, String)] = [
      (.sent, "sent"), (.received, "received"),
    ]
    text.family("goliath_frames_total", .counter, "Frames to and from other nodes.") { family in
      for (direction, word) in directions {
        for type in FrameType.allCases {
          let count = counters.frames(direction, type)
          // Types that never passed say nothing.
          if count > 0 { family.add(count, node + [("dir", word), ("type", "\(type)")]) }
        }
      }
    }
    text.family("goliath_bytes_total", .counter, "Bytes to and from other nodes.") { family in
      for (direction, word) in directions {
        for stream in StreamKind.allCases {
          family.add(
            counters.bytes(direction, stream), node + [("dir", word), ("stream", "\(stream)")])
        }
      }
    }
    text.family(
      "goliath_queue_depth", .gauge, "Bytes that wait for connections to other nodes to take them."
    ) { family in
      for stream in StreamKind.allCases {
        family.add(counters.queueDepth(stream), node + [("stream", "\(stream)")])
      }
    }
    text.single(
      "goliath_dropped_epoch_frames_total", .counter,
      "Frames of an earlier incarnation that were dropped.", counters.oldEpochFrames, node)
    text.single(
      "goliath_protocol_errors_total", .counter, "Frames that broke the protocol.",
      counters.protocolErrors, node)
  }

  private static func pages(
    _ memory: DSMStatistics, _ node: MetricsText.Labels, into text: inout MetricsText
  ) {
    let kinds = [
      ("read", memory.readFaults, memory.readHistogram, memory.readNanoseconds),
      ("write", memory.writeFaults, memory.writeHistogram, memory.writeNanoseconds),
      ("upgrade", memory.upgradeFaults, memory.upgradeHistogram, memory.upgradeNanoseconds),
    ]
    text.family("goliath_dsm_faults_total", .counter, "Accesses that asked for a page.") {
      for (kind, count, _, _) in kinds { $0.add(count, node + [("kind", kind)]) }
    }
    text.family("goliath_dsm_fault_seconds", .histogram, "How long such accesses waited.") {
      for (kind, _, histogram, nanoseconds) in kinds {
        var buckets: [(bound: Double, count: UInt64)] = []
        for index in 0..<LatencyHistogram.count {
          guard let bound = LatencyHistogram.bound(index) else { continue }
          buckets.append((Double(bound) / 1e6, histogram[index]))
        }
        $0.addHistogram(
          buckets, above: histogram[LatencyHistogram.count - 1], sum: Double(nanoseconds) / 1e9,
          node + [("kind", kind)])
      }
    }
    func each(
      _ name: StaticString, _ kind: MetricsText.Kind, _ help: StaticString, _ label: StaticString,
      _ values: [(String, UInt64)]
    ) {
      text.family(name, kind, help) {
        for (word, value) in values { $0.add(value, node + [(label, word)]) }
      }
    }
    each(
      "goliath_dsm_pages", .gauge, "Pages by what this node may do with them.", "state",
      [("I", memory.invalidPages), ("S", memory.sharedPages), ("M", memory.modifiedPages)])
    text.single(
      "goliath_dsm_invalidations_total", .counter, "Pages that were taken away from this node.",
      memory.invalidations, node)
    each(
      "goliath_dsm_transfers_total", .counter, "Pages that came to this node.", "kind",
      [
        ("full", memory.fullTransfers), ("zero", memory.zeroTransfers),
        ("diff", 0), ("grant", memory.grants),
      ])
    each(
      "goliath_dsm_prefetch_total", .counter, "Pages that came before they were asked for.",
      "result", [("used", memory.prefetchesUsed), ("wasted", memory.prefetchesWasted)])
    text.single(
      "goliath_dsm_held_revocations_total", .counter,
      "Revocations that had to wait for the page itself.", memory.heldRevocations, node)
    text.family(
      "goliath_dsm_pin_wait_seconds", .summary, "Waits for devices and accesses that held a page."
    ) { $0.addSummary(sum: Double(memory.pinWaitNanoseconds) / 1e9, count: memory.pinWaits, node) }
    text.single(
      "goliath_dsm_hot_pages", .gauge, "Pages that move often at present.", memory.hotPages, node)
    text.single(
      "goliath_dsm_lost_pages", .gauge, "Pages whose contents went with a lost node.",
      memory.lostPages, node)
    text.single(
      "goliath_dsm_transactions_total", .counter, "Transactions that this node ordered as a home.",
      memory.transactions, node)
  }
}
