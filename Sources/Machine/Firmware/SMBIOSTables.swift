/// SMBIOS 2.8 or 3.0 tables of a `pc` machine (DMTF DSP0134): system, chassis, processors, memory.
///
/// There is no BIOS information (type 0): firmware adds its own; a guest without firmware does without.
struct SMBIOSTables: Equatable, Sendable {
  private(set) var tables: [UInt8] = []
  private var structureCount = 0
  private var largest = 0
  /// Tables of version 3.0 behind a 64-bit entry point.
  let isVersion3: Bool

  init(_ configuration: FirmwareConfiguration) {
    isVersion3 = configuration.hasSMBIOS3
    addSystem(configuration)
    addChassis(configuration)
    for socket in 0..<max(configuration.sockets, 1) { addProcessor(socket, configuration) }
    addMemory(configuration)
    // Boot information: no errors detected.
    add(32, 0x2000, [UInt8](repeating: 0, count: 7), [])
    add(127, 0x7F00, [], [])
  }

  /// Entry point structure (5.2.1 or 5.2.2), 31 or 24 bytes, with the tables' address still to be filled in, as firmware expects it.
  var anchor: [UInt8] { anchor(pointingTo: 0) }

  /// The 64-bit entry point (5.2.2), 24 bytes.
  private func anchor3(pointingTo address: UInt32) -> [UInt8] {
    var out = Array("_SM3_".utf8) + [0, 0x18, 3, 0, 0, 1, 0]
    out.append32(UInt32(clamping: tables.count))
    out.append64(UInt64(address))
    out[5] = 0 &- out.reduce(0, &+)
    return out
  }

  /// The entry point with the tables' address and its checksums.
  func anchor(pointingTo address: UInt32) -> [UInt8] {
    if isVersion3 { return anchor3(pointingTo: address) }
    var out = Array("_SM_".utf8) + [0, 0x1F, 2, 8]
    out.append16(UInt16(clamping: largest))
    out += [0, 0, 0, 0, 0, 0]
    var intermediate = Array("_DMI_".utf8) + [0]
    intermediate.append16(UInt16(clamping: tables.count))
    intermediate.append32(address)
    intermediate.append16(UInt16(clamping: structureCount))
    intermediate.append(0x28)
    intermediate[5] = 0 &- intermediate.reduce(0, &+)
    out += intermediate
    out[4] = 0 &- out.reduce(0, &+)
    return out
  }

  // MARK: -

  /// Adds a structure: type, handle, the formatted part behind the header, strings (numbered from 1).
  private mutating func add(_ type: UInt8, _ handle: UInt16, _ body: [UInt8], _ strings: [String]) {
    var out = [type, UInt8(truncatingIfNeeded: body.count + 4)]
    out.append16(handle)
    out += body
    for text in strings { out += Array(text.utf8) + [0] }
    out += strings.isEmpty ? [0, 0] : [0]
    tables += out
    structureCount += 1
    largest = max(largest, out.count)
  }

  private static let manufacturer = "QEMU"

  /// Type 1 (7.2).
  private mutating func addSystem(_ configuration: FirmwareConfiguration) {
    var uuid = [UInt8](repeating: 0, count: 16)
    if let given = configuration.uuid, given.count == 16 {
      // The first three fields are little-endian (7.2.1).
      let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
      uuid = order.map { given[$0] }
    }
    let strings = [
      SMBIOSTables.manufacturer, "Standard PC (i440FX + PIIX, 1996)", configuration.machineName,
    ]
    add(1, 0x100, [1, 2, 3, 0] + uuid + [6, 0, 0], strings)
  }

  /// Type 3 (7.4): other, all states safe, no security.
  private mutating func addChassis(_ configuration: FirmwareConfiguration) {
    add(
      3, 0x300, [1, 1, 2, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      [SMBIOSTables.manufacturer, configuration.machineName])
  }

  /// Type 4 (7.5).
  private mutating func addProcessor(_ socket: Int, _ configuration: FirmwareConfiguration) {
    var body: [UInt8] = [1, 3, 1, 2]  // socket, CPU, other family, maker
    body += [UInt8](repeating: 0, count: 8)  // identification: see CPUID
    body += [3, 0]  // version; voltage unknown
    body.append16(0)
    body.append16(2000)  // speeds: a number, as software wants one
    body.append16(2000)
    body += [0x41, 1]  // populated and enabled; upgrade: other
    for _ in 0..<3 { body.append16(0xFFFF) }  // no cache structures
    body += [0, 0, 0]
    let cores = UInt8(clamping: configuration.coresPerSocket)
    let threads = UInt8(clamping: configuration.coresPerSocket * configuration.threadsPerCore)
    body += [cores, cores, threads]
    body.append16(2)  // characteristics: unknown
    body.append16(1)  // family 2: other
    if isVersion3 {
      // The same counts without the limit of 255 (7.5.6 to 7.5.8).
      let all = UInt16(clamping: configuration.coresPerSocket)
      body.append16(all)
      body.append16(all)
      body.append16(UInt16(clamping: configuration.coresPerSocket * configuration.threadsPerCore))
    }
    add(
      4, UInt16(truncatingIfNeeded: 0x400 + socket), body,
      ["CPU \(socket)", SMBIOSTables.manufacturer, configuration.machineName])
  }

  /// Types 16, 17, 19 (7.17, 7.18, 7.20): one array, devices of at most 16 GiB, the mapped ranges.
  private mutating func addMemory(_ configuration: FirmwareConfiguration) {
    let total = configuration.memory.ramSize
    let deviceLimit: UInt64 = 16 << 30
    let devices = Int(max((total + deviceLimit - 1) / deviceLimit, 1))
    var array: [UInt8] = [1, 3, 6]  // other location, system memory, multi-bit correction
    let kilobytes = total >> 10
    array.append32(kilobytes < 0x8000_0000 ? UInt32(kilobytes) : 0x8000_0000)
    array.append16(0xFFFE)
    array.append16(UInt16(clamping: devices))
    array.append64(kilobytes < 0x8000_0000 ? 0 : total)
    add(16, 0x1000, array, [])

    var left = total
    for index in 0..<devices {
      let size = min(left, deviceLimit)
      left -= size
      var body: [UInt8] = []
      body.append16(0x1000)
      body.append16(0xFFFE)
      body.append16(0xFFFF)  // widths unknown
      body.append16(0xFFFF)
      body.append16(UInt16(clamping: size >> 20))
      body += [9, 0, 1, 0, 7]  // DIMM, no set, locator, no bank, RAM
      body.append16(2)  // other
      body.append16(0)
      body += [2, 0, 0, 0, 0]  // manufacturer; the rest unknown
      body.append32(0)
      body.append16(0)
      for _ in 0..<3 { body.append16(0) }  // voltages unknown
      add(
        17, UInt16(truncatingIfNeeded: 0x1100 + index), body,
        ["DIMM \(index)", SMBIOSTables.manufacturer])
    }

    var ranges = [(start: UInt64(0), size: configuration.memory.below4G)]
    if configuration.memory.above4G > 0 {
      ranges.append((start: 1 << 32, size: configuration.memory.above4G))
    }
    for (index, range) in ranges.enumerated() {
      var body: [UInt8] = []
      let last = range.start + range.size - 1
      let fits = last >> 10 < 0xFFFF_FFFF
      body.append32(fits ? UInt32(range.start >> 10) : 0xFFFF_FFFF)
      body.append32(fits ? UInt32(last >> 10) : 0xFFFF_FFFF)
      body.append16(0x1000)
      body.append(1)
      body.append64(fits ? 0 : range.start)
      body.append64(fits ? 0 : last)
      add(19, UInt16(truncatingIfNeeded: 0x1300 + index), body, [])
    }
  }
}
