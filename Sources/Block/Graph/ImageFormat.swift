/// Tells image formats by their first bytes.
package enum ImageFormat {
  /// How many bytes decide.
  package static let probeLength = 2048

  /// The format that `bytes`, the start of a file, is in: `raw` when it is none that is known, also the name of one that we cannot open.
  package static func probe(_ bytes: [UInt8], filename: String) -> String {
    func has(_ text: String, at offset: Int = 0) -> Bool {
      let wanted = Array(text.utf8)
      return bytes.count >= offset + wanted.count
        && bytes[offset..<offset + wanted.count].elementsEqual(wanted)
    }
    func word(_ offset: Int) -> UInt32 {
      guard bytes.count >= offset + 4 else { return 0 }
      return bytes[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }
    if word(0) == Qcow2Header.magic {
      let version = word(4)
      if version >= 2 { return "qcow2" }
      if version == 1 { return "qcow" }
    }
    if has("KDMV") || has("COWD") || has("# Disk DescriptorFile") { return "vmdk" }
    if word(0x40) == 0x7F10_DABE { return "vdi" }
    if has("vhdxfile") { return "vhdx" }
    if has("conectix") { return "vpc" }
    if has("QED\0") { return "qed" }
    if word(0) == 0x4C55_4B53, word(4) >> 16 == 0xBABE { return "luks" }
    if has("WithoutFreeSpace") || has("WithouFreSpacExt") { return "parallels" }
    if has("Bochs Virtual HD Image") { return "bochs" }
    if has("#!/bin/sh\n#V2.0 Format\nmodprobe cloop") { return "cloop" }
    if filename.hasSuffix(".dmg") { return "dmg" }
    return "raw"
  }
}
