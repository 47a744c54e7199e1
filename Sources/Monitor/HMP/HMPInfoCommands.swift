import CPU
import Host
import QAPI

/// The subcommands of `info`.
extension HMPCommandTable {
  static let generalInfoCommands = [
    HMPCommand("chardev", help: "show the character devices", .looks, early: true) {
      session, _ throws(QAPIError) in
      for device in try session.commands.queryChardev() {
        session.print("\(device.label): filename=\(device.filename)\n")
      }
    },
    HMPCommand("history", help: "show the lines typed before", .looks, early: true) { session, _ in
      for (index, line) in session.history.enumerated() {
        session.print("\(index): '\(String(decoding: line, as: UTF8.self))'\n")
      }
    },
    HMPCommand("irq", help: "show how many interrupts there were", .looks) { session, _ in
      for controller in session.machine.interruptControllers {
        session.print(InterruptText.statistics(controller))
      }
    },
    HMPCommand("jit", help: "show what the software CPU has done", .looks) {
      session, _ throws(QAPIError) in
      session.print(try session.commands.xQueryJit().humanReadableText)
    },
    HMPCommand("kvm", help: "show whether KVM is used", .looks) { session, _ throws(QAPIError) in
      let info = try session.commands.queryKvm()
      let state = !info.present ? "not compiled" : info.enabled ? "enabled" : "disabled"
      session.print("kvm support: \(state)\n")
    },
    HMPCommand(
      "lapic", "apic-id:i?", "[apic-id]",
      help: "show a local APIC (apic-id: which one; the current CPU's without it)", .looks
    ) { session, arguments in
      let index: Int?
      if let id = arguments.integer("apic-id") {
        index = session.machine.cpuIndex(apicID: UInt32(truncatingIfNeeded: id))
      } else {
        index = session.currentCPU
      }
      if let index, let apic = session.machine.localAPIC(index) {
        session.print(InterruptText.localAPIC(apic, cpu: index))
      } else {
        session.print("No CPU available\n")
      }
    },
    HMPCommand(
      "mtree", "flatview:-f,dispatch_tree:-d,owner:-o,disabled:-D", "[-f][-d][-o][-D]",
      help: "show the memory map (-f: as the guest sees it; other flags change nothing)", .looks
    ) { session, arguments in
      let spaces = session.machine.memoryTree
      session.print(
        arguments.flag("flatview") ? FlatView.text(spaces) : TreeText.memory(spaces))
    },
    HMPCommand("name", help: "show the guest's name", .looks, early: true) {
      session, _ throws(QAPIError) in
      if let name = try session.commands.queryName().name { session.print("\(name)\n") }
    },
    HMPCommand("opcount", help: "show how often the translator's operations were made", .looks) {
      session, _ throws(QAPIError) in
      session.print(try session.commands.xQueryOpcount().humanReadableText)
    },
    HMPCommand("pic", help: "show the interrupt controllers", .looks) { session, _ in
      for controller in session.machine.interruptControllers {
        session.print(InterruptText.controller(controller))
      }
    },
    HMPCommand("qtree", help: "show the devices by bus", .looks) { session, _ in
      session.print(TreeText.devices(session.machine.deviceTree))
    },
    HMPCommand(
      "registers", "cpustate_all:-a,vcpu:i?", "[-a|vcpu]",
      help: "show a CPU's registers (-a: of all; vcpu: of which; the current one's without both)",
      .looks
    ) { session, arguments in registers(session, arguments) },
    HMPCommand("roms", help: "show read-only images", .looks) { session, _ in
      session.print(TreeText.roms(session.machine.roms))
    },
    HMPCommand("status", help: "show whether the guest runs", .looks, early: true) {
      session, _ throws(QAPIError) in
      let info = try session.commands.queryStatus()
      var text = "VM status: \(info.running ? "running" : "paused")"
      if info.singlestep { text += " (single step mode)" }
      if !info.running, info.status != .paused { text += " (\(info.status.rawValue))" }
      session.print(text + "\n")
    },
    HMPCommand("uuid", help: "show the guest's UUID", .looks, early: true) {
      session, _ throws(QAPIError) in
      session.print("\(try session.commands.queryUuid().uuid)\n")
    },
    HMPCommand("version", help: "show the version", .looks, early: true) {
      session, _ throws(QAPIError) in
      let info = try session.commands.queryVersion()
      session.print("\(info.qemu.text)\(info.package)\n")
    },
  ]

  // MARK: -

  @MainLoop
  private static func registers(_ session: HMPSession, _ arguments: HMPArguments) {
    if arguments.flag("cpustate_all") {
      for index in 0..<session.machine.cpuCount {
        if let state = session.machine.cpuState(index) {
          session.print(RegisterText.dump(state, index: index))
        }
      }
      return
    }
    let index = arguments.integer("vcpu").map { Int($0) } ?? session.currentCPU
    guard let state = session.machine.cpuState(index) else {
      session.print(
        arguments.integer("vcpu") == nil
          ? "No CPU available\n" : "CPU#\(index) not available\n")
      return
    }
    session.print(RegisterText.dump(state, index: index))
  }
}
