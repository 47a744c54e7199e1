import Host
import QAPI

/// `dump-guest-memory` and what became of it.
extension HMPCommandTable {
  static let dumpCommands = [
    HMPCommand(
      "dump-guest-memory",
      "paging:-p,detach:-d,windmp:-w,zlib:-z,lzo:-l,snappy:-s,filename:F,begin:l?,length:l?",
      "[-p] [-d] [-z|-l|-s|-w] filename [begin length]",
      help: "save guest memory (-p: by virtual addresses, -d: return at once; -z -l -s: compressed)"
    ) { session, arguments throws(QAPIError) in
      let formats: [(flag: String, format: DumpGuestMemoryFormat)] = [
        ("windmp", .winDmp), ("zlib", .kdumpZlib), ("lzo", .kdumpLzo), ("snappy", .kdumpSnappy),
      ]
      let chosen = formats.filter { arguments.flag($0.flag) }
      if chosen.count > 1 { throw QAPIError("only one of '-z|-l|-s|-w' can be set") }
      try await session.commands.dumpGuestMemory(
        paging: arguments.flag("paging"), protocol: "file:\(arguments.text("filename") ?? "")",
        detach: arguments.flag("detach"), begin: arguments.integer("begin").map { Int($0) },
        length: arguments.integer("length").map { Int($0) }, format: chosen.first?.format ?? .elf,
        xJobId: nil)
    }
  ]

  static let dumpInfoCommands = [
    HMPCommand("dump", help: "show what became of the last dump", .looks) {
      session, _ throws(QAPIError) in
      let result = try session.commands.queryDump()
      session.print("Status: \(result.status.rawValue)\n")
      guard result.status == .active, result.total > 0 else { return }
      let parts = Int(Double(result.completed) / Double(result.total) * 10_000)
      session.print("Finished: \(parts / 100).\(TextForm.decimal(parts % 100, 2)) %\n")
    }
  ]
}
