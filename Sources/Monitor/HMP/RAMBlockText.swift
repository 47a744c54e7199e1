import Shm

/// `info ramblock`.
enum RAMBlockText {
  /// The blocks that hold guest memory, each once, the largest first; lines with `\n`. Offsets count through all blocks.
  static func table(_ blocks: [RAMBlock]) -> String {
    var seen: Set<ObjectIdentifier> = []
    var entries: [(name: String, offset: UInt64, size: UInt64)] = []
    var offset: UInt64 = 0
    for block in blocks where seen.insert(ObjectIdentifier(block)).inserted {
      entries.append((block.name, offset, UInt64(block.size)))
      offset &+= UInt64(block.size)
    }
    let header = ["Offset", "Used", "Total"].map { TextForm.right($0, 18) }.joined(separator: " ")
    var text = "\(TextForm.right("Block Name", 24)) \(TextForm.right("PSize", 8))  \(header)\n"
    for entry in entries.sorted(by: { $0.size > $1.size }) {
      let size = "0x" + TextForm.hex(entry.size, 16)
      text += "\(TextForm.right(entry.name, 24)) \(TextForm.right("4 KiB", 8))"
      text += "  0x\(TextForm.hex(entry.offset, 16)) \(size) \(size)\n"
    }
    return text
  }
}
