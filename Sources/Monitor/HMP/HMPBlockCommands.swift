import Block
import Host
import Machine
import Options
import QAPI

/// Commands about disks.
extension HMPCommandTable {
  static let blockCommands = [
    HMPCommand(
      "block_resize", "device:B,size:o", "device size",
      help: "change the size of a disk (MiB without a suffix)", completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      try await session.commands.blockResize(
        device: arguments.text("device"), nodeName: nil,
        size: Int(arguments.integer("size") ?? 0))
    },
    HMPCommand(
      "block_set_io_throttle",
      "device:B,bps:l,bps_rd:l,bps_wr:l,iops:l,iops_rd:l,iops_wr:l",
      "device bps bps_rd bps_wr iops iops_rd iops_wr",
      help: "limit the bytes and accesses a second of a drive (0: no limit)",
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      func number(_ name: String) -> Int { Int(arguments.integer(name) ?? 0) }
      let name = arguments.text("device") ?? ""
      let isDrive = try await session.commands.queryBlock().contains { $0.device == name }
      try await session.commands.blockSetIoThrottle(
        device: isDrive ? name : nil, id: isDrive ? nil : name, bps: number("bps"),
        bpsRd: number("bps_rd"), bpsWr: number("bps_wr"), iops: number("iops"),
        iopsRd: number("iops_rd"), iopsWr: number("iops_wr"), bpsMax: nil, bpsRdMax: nil,
        bpsWrMax: nil, iopsMax: nil, iopsRdMax: nil, iopsWrMax: nil, bpsMaxLength: nil,
        bpsRdMaxLength: nil, bpsWrMaxLength: nil, iopsMaxLength: nil, iopsRdMaxLength: nil,
        iopsWrMaxLength: nil, iopsSize: nil, group: nil)
    },
    HMPCommand(
      "eject", "force:-f,device:B", "[-f] device",
      help: "take the medium out of a drive (-f: even when the guest holds it)",
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      try await session.commands.eject(
        device: arguments.text("device"), id: nil, force: arguments.flag("force"))
    },
    HMPCommand(
      "change", "device:B,force:-f,target:F,arg:s?,read-only-mode:s?",
      "device [-f] filename [format [read-only-mode]]",
      help: "put another medium into a drive (-f: even when the guest holds the old one;"
        + " read-only-mode: retain, read-only or read-write)", completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      var mode: BlockdevChangeReadOnlyMode?
      if let word = arguments.text("read-only-mode") {
        mode = BlockdevChangeReadOnlyMode(rawValue: word)
        if mode == nil { throw QAPIError("invalid parameter value: \(word)") }
      }
      try await session.commands.blockdevChangeMedium(
        device: arguments.text("device"), id: nil, filename: arguments.text("target") ?? "",
        format: arguments.text("arg"), force: arguments.flag("force"), readOnlyMode: mode)
    },
    HMPCommand(
      "drive_add", "node:-n,pci_addr:s,opts:s",
      "[-n] [[<domain>:]<bus>:]<slot> [file=file][,if=none][,id=name][,media=d][,snapshot=on|off]"
        + "[,cache=mode][,readonly=on|off][,option=value...]",
      help: "add a drive for device_add to use, described as for -drive (-n: a node, as for"
        + " -blockdev; the slot says nothing)"
    ) { session, arguments throws(QAPIError) in
      await addDrive(session, arguments.text("opts") ?? "", isNode: arguments.flag("node"))
    },
    HMPCommand(
      "drive_del", "id:B", "device", help: "take a drive away from its device, and end it",
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      await deleteDrive(session, arguments.text("id") ?? "")
    },
    HMPCommand(
      "snapshot_blkdev", "reuse:-n,device:B,snapshot-file:s?,format:s?",
      "[-n] device [new-image-file] [format]",
      help: "take an external snapshot of a disk: what is written from now on goes to a new file"
        + " (-n: that exists), in qcow2 unless a format is given",
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      guard let file = arguments.text("snapshot-file") else {
        throw QAPIError("Parameter 'snapshot-file' is missing")
      }
      try await session.commands.blockdevSnapshotSync(
        BlockdevSnapshotSync(
          device: arguments.text("device"), snapshotFile: file, format: arguments.text("format"),
          mode: arguments.flag("reuse") ? .existing : .absolutePaths))
    },
    HMPCommand(
      "snapshot_blkdev_internal", "device:B,name:s", "device name",
      help: "take a snapshot of a disk inside its image, which must be in qcow2",
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      try await session.commands.blockdevSnapshotInternalSync(
        BlockdevSnapshotInternal(
          device: arguments.text("device") ?? "", name: arguments.text("name") ?? ""))
    },
    HMPCommand(
      "snapshot_delete_blkdev_internal", "device:B,name:s,id:s?", "device name [id]",
      help: "delete a snapshot inside an image (id: only that with this id, too)",
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      _ = try await session.commands.blockdevSnapshotDeleteInternalSync(
        device: arguments.text("device") ?? "", id: arguments.text("id"),
        name: arguments.text("name"))
    },
  ]

  static let blockInfoCommands = [
    HMPCommand(
      "block", "nodes:-n,verbose:-v,device:B?", "[-n] [-v] [device]",
      help: "show drives (-n: block nodes; -v: their images, too)", .looks, early: true,
      completion: HMPCompleters.drives
    ) { session, arguments throws(QAPIError) in
      let isVerbose = arguments.flag("verbose")
      let name = arguments.text("device")
      var hasPrinted = false
      if !arguments.flag("nodes") {
        for (index, info) in try await session.commands.queryBlock().enumerated()
        where name == nil || name == info.device {
          session.print((index > 0 ? "\n" : "") + BlockText.drive(info, verbose: isVerbose))
          hasPrinted = true
        }
        if hasPrinted || name == nil { return }
      }
      let nodes = try await session.commands.queryNamedBlockNodes(flat: nil)
      for (index, info) in nodes.enumerated() where name == nil || name == info.nodeName {
        session.print((index > 0 ? "\n" : "") + BlockText.node(info, verbose: isVerbose))
      }
    },
    HMPCommand(
      "blockstats", help: "show how much drives have read and written", .looks, early: true
    ) { session, _ throws(QAPIError) in
      for stats in try await session.commands.queryBlockstats(queryNodes: nil) {
        session.print(BlockText.statistics(stats))
      }
    },
    HMPCommand("block-jobs", help: "show long work on disks", .looks) { session, _ in
      session.print("No active jobs\n")
    },
  ]

  // MARK: -

  @MainLoop
  private static func addDrive(_ session: HMPSession, _ text: String, isNode: Bool) async {
    guard let commands = session.commands as? MonitorCommands else { return }
    let context = commands.context
    do {
      if isNode {
        let node = try DriveText.node(text)
        guard node.nodeName != nil else {
          session.print("'node-name' needs to be specified\n")
          return
        }
        return try await session.commands.blockdevAdd(node)
      }
      let earlier = try context.configuration.drives + context.addedDrives
      let drive = try DriveText.drive(
        text, earlier: earlier.filter { context.blocks.backend(named: $0.id) != nil })
      guard drive.interface == .none else {
        session.print("Can't hot-add drive to type \(drive.interface.number)\n")
        return
      }
      let backend = try await commands.changingBlocks { (graph) throws(BlockError) in
        do throws(BlockError) {
          return try DriveOpener.open(drive, in: graph)
        } catch {
          let lines = [error.message] + error.hintLines
          throw BlockError(error.code, lines.joined(separator: "\n"))
        }
      }
      if let machine = try? context.machine { machine.watch(backend) }
      context.addedDrives.append(drive)
      session.print("OK\n")
    } catch let error as OptionError {
      session.print("\(error.reason)\n")
    } catch let error as QAPIError {
      session.print("\(error.description)\n")
    } catch {
      session.print("\(error)\n")
    }
  }

  @MainLoop
  private static func deleteDrive(_ session: HMPSession, _ id: String) async {
    guard let commands = session.commands as? MonitorCommands else { return }
    let context = commands.context
    do throws(QAPIError) {
      if context.blocks.node(named: id) != nil {
        return try await session.commands.blockdevDel(nodeName: id)
      }
      guard let backend = context.blocks.backend(named: id) else {
        session.print("Device '\(id)' not found\n")
        return
      }
      _ = try await commands.changingBlocks { (graph) throws(BlockError) in
        if let node = backend.node { try graph.checkNotBlocked(node) }
        try backend.remove()
        graph.remove(backend)
      }
    } catch {
      session.print("\(error.description)\n")
    }
  }
}

extension DriveConfiguration.Interface {
  /// As QEMU's sentence numbers them.
  fileprivate var number: Int {
    switch self {
    case .none: 0
    case .ide: 1
    case .scsi: 2
    case .floppy: 3
    case .pflash: 4
    case .mtd: 5
    case .sd: 6
    case .virtio: 7
    case .xen: 8
    }
  }
}

extension HMPCompleters {
  /// The first argument is a drive, or a node.
  static let drives: HMPCompleter = { session, request in
    guard request.before.allSatisfy({ $0.hasPrefix("-") }) else { return [] }
    let graph = (session.commands as? MonitorCommands)?.context.blocks
    return (graph?.backends ?? []).map(\.name).filter { !$0.isEmpty }
  }
}
