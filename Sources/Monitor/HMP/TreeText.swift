/// `info mtree`, `info qtree`, `info qom-tree`, `info roms`.
enum TreeText {
  /// All address spaces, lines with `\n`.
  static func memory(_ spaces: [HMPAddressSpace]) -> String {
    var text = ""
    for space in spaces {
      text += "address-space: \(space.name)\n"
      text += region(space.root, depth: 1)
      text += "\n"
    }
    return text
  }

  private static func region(_ region: HMPRegion, depth: Int) -> String {
    var text = String(repeating: "  ", count: depth)
    text += "\(TextForm.hex(region.start, 16))-\(TextForm.hex(region.end, 16))"
    text += " (prio \(region.priority), \(region.kind)): \(region.name)\n"
    for child in region.children { text += self.region(child, depth: depth + 1) }
    return text
  }

  /// A bus with everything on it, lines with `\n`.
  static func devices(_ bus: HMPBus, indent: Int = 0) -> String {
    let margin = String(repeating: " ", count: indent)
    var text = "\(margin)bus: \(bus.name)\n\(margin)  type \(bus.type)\n"
    for device in bus.devices {
      text += "\(margin)  dev: \(device.type), id \"\(device.id)\"\n"
      for line in device.lines { text += "\(margin)    \(line)\n" }
      for child in device.buses { text += devices(child, indent: indent + 4) }
    }
    return text
  }

  /// An object and its children by name, lines with `\n`.
  static func objects(_ object: HMPObject, indent: Int = 0) -> String {
    var text = String(repeating: " ", count: indent) + "/\(object.name) (\(object.type))\n"
    for child in object.children.sorted(by: { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    ) {
      text += objects(child, indent: indent + 2)
    }
    return text
  }

  /// Read-only images, lines with `\n`.
  static func roms(_ roms: [HMPROM]) -> String {
    roms.map { rom in
      let size = "size=0x\(TextForm.hex(rom.size, 6)) name=\"\(rom.name)\"\n"
      switch rom.place {
      case .memory(let address, let kind):
        return "addr=\(TextForm.hex(address, 16)) size=0x\(TextForm.hex(rom.size, 6))"
          + " mem=\(kind) name=\"\(rom.name)\"\n"
      case .firmwareFile(let path): return "fw=\(path) \(size)"
      case .block(let name): return "\(name) \(size)"
      }
    }.joined()
  }
}
