package import Net
package import QAPI

/// Feature bits of a network card (virtio 1.1, 5.1.3).
enum NetFeature {
  static let checksum: UInt64 = 1 << 0
  static let guestChecksum: UInt64 = 1 << 1
  static let controlGuestOffloads: UInt64 = 1 << 2
  static let mtu: UInt64 = 1 << 3
  static let mac: UInt64 = 1 << 5
  static let gso: UInt64 = 1 << 6
  static let guestTSO4: UInt64 = 1 << 7
  static let guestTSO6: UInt64 = 1 << 8
  static let guestECN: UInt64 = 1 << 9
  static let guestUFO: UInt64 = 1 << 10
  static let hostTSO4: UInt64 = 1 << 11
  static let hostTSO6: UInt64 = 1 << 12
  static let hostECN: UInt64 = 1 << 13
  static let hostUFO: UInt64 = 1 << 14
  static let mergeableBuffers: UInt64 = 1 << 15
  static let status: UInt64 = 1 << 16
  static let controlQueue: UInt64 = 1 << 17
  static let controlReceive: UInt64 = 1 << 18
  static let controlVLAN: UInt64 = 1 << 19
  static let controlReceiveExtra: UInt64 = 1 << 20
  static let guestAnnounce: UInt64 = 1 << 21
  static let multiqueue: UInt64 = 1 << 22
  static let controlMAC: UInt64 = 1 << 23
  static let speedDuplex: UInt64 = 1 << 63

  static let guestOffloads = guestChecksum | guestTSO4 | guestTSO6 | guestECN | guestUFO

  /// What ports may give a driver that took these features.
  static func accepted(_ features: UInt64) -> OffloadSet {
    var set: OffloadSet = []
    guard features & guestChecksum != 0 else { return set }
    set.insert(.checksum)
    if features & guestTSO4 != 0 { set.insert(.tcp4) }
    if features & guestTSO6 != 0 { set.insert(.tcp6) }
    if features & guestECN != 0 { set.insert(.ecn) }
    if features & guestUFO != 0 { set.insert(.udp) }
    return set
  }
}

/// What the driver has set up: filter, address, features. A value behind the card's lock.
struct VirtioNetState: Sendable {
  static let tableSize = 64

  var features: UInt64 = 0
  var isStarted = false
  var mac: MACAddress
  var isLinkUp = true
  /// The driver shall announce itself.
  var wantsAnnouncement = false
  var activePairs = 1
  /// Offloads that the driver takes at present, as feature bits.
  var guestOffloads: UInt64 = 0

  // The receive filter (5.1.6.5.1).
  var isPromiscuous = true
  var allMulticast = false
  var allUnicast = false
  var noMulticast = false
  var noUnicast = false
  var noBroadcast = false
  var unicast: [MACAddress] = []
  var multicast: [MACAddress] = []
  var hasUnicastOverflow = false
  var hasMulticastOverflow = false
  /// A bit for each VLAN.
  var vlans = [UInt64](repeating: UInt64.max, count: 64)

  init(mac: MACAddress) { self.mac = mac }

  var hasMergeableBuffers: Bool { features & NetFeature.mergeableBuffers != 0 }

  /// Bytes of the header before each frame (5.1.6.1).
  var headerSize: Int {
    features & (NetFeature.mergeableBuffers | VirtioFeature.version1) != 0
      ? Offload.longHeader : Offload.shortHeader
  }

  /// Whether a frame with that destination passes.
  func passes(_ destination: MACAddress, vlan: UInt16?) -> Bool {
    if isPromiscuous { return true }
    if let vlan, vlans[Int(vlan >> 6)] >> UInt64(vlan & 63) & 1 == 0 { return false }
    if destination == .broadcast { return !noBroadcast }
    if destination.isMulticast {
      if noMulticast { return false }
      return allMulticast || hasMulticastOverflow || multicast.contains(destination)
    }
    if noUnicast { return false }
    return destination == mac || allUnicast || hasUnicastOverflow || unicast.contains(destination)
  }

  func filter(name: String) -> RxFilterInfo {
    func state(_ none: Bool, _ all: Bool) -> RxState { none ? .none : all ? .all : .normal }
    let table = (0..<4096).reversed().filter { vlans[$0 >> 6] >> UInt64($0 & 63) & 1 != 0 }
    let vlanState: RxState =
      features & NetFeature.controlVLAN == 0 ? .all : table.isEmpty ? .none : .normal
    return RxFilterInfo(
      name: name, promiscuous: isPromiscuous, multicast: state(noMulticast, allMulticast),
      unicast: state(noUnicast, allUnicast), vlan: vlanState, broadcastAllowed: !noBroadcast,
      multicastOverflow: hasMulticastOverflow, unicastOverflow: hasUnicastOverflow,
      mainMac: mac.description, vlanTable: table,
      unicastTable: unicast.reversed().map(\.description),
      multicastTable: multicast.reversed().map(\.description))
  }
}

/// What a command of the control queue led to.
struct VirtioNetControlResult {
  var isAccepted = false
  var filterChanged = false
  var offloadsChanged = false
  var queuesChanged = false
  var announced = false
  var macChanged = false
}

extension VirtioNetState {
  /// Carries out a command (5.1.6.5); `bytes` are all that the driver lets the device read.
  mutating func control(_ bytes: [UInt8], maximumPairs: Int) -> VirtioNetControlResult {
    var result = VirtioNetControlResult()
    guard bytes.count >= 2 else { return result }
    let data = bytes[2...]
    func word(_ at: Int) -> UInt16? {
      data.count >= at + 2 ? UInt16(data[2 + at]) | UInt16(data[3 + at]) << 8 : nil
    }
    switch (bytes[0], bytes[1]) {
    case (0, let mode):
      guard features & NetFeature.controlReceive != 0, let value = data.first else { break }
      result.isAccepted = setMode(mode, value != 0)
      result.filterChanged = result.isAccepted
    case (1, 0):
      guard features & NetFeature.controlReceive != 0 else { break }
      result.isAccepted = setTables(data)
      result.filterChanged = result.isAccepted
    case (1, 1):
      guard features & NetFeature.controlMAC != 0, data.count == 6 else { break }
      mac = MACAddress(bytes: data)
      result.isAccepted = true
      result.filterChanged = true
      result.macChanged = true
    case (2, let command) where command < 2:
      guard features & NetFeature.controlVLAN != 0, let vlan = word(0), vlan < 4096 else { break }
      let bit = UInt64(1) << UInt64(vlan & 63)
      if command == 0 { vlans[Int(vlan >> 6)] |= bit } else { vlans[Int(vlan >> 6)] &= ~bit }
      result.isAccepted = true
      result.filterChanged = true
    case (3, 0):
      guard wantsAnnouncement else { break }
      wantsAnnouncement = false
      result.isAccepted = true
      result.announced = true
    case (4, 0):
      guard features & NetFeature.multiqueue != 0, let pairs = word(0), pairs > 0,
        Int(pairs) <= maximumPairs
      else { break }
      activePairs = Int(pairs)
      result.isAccepted = true
      result.queuesChanged = true
    case (5, 0):
      guard features & NetFeature.controlGuestOffloads != 0, data.count == 8 else { break }
      let wanted = (0..<8).reduce(UInt64(0)) { $0 | UInt64(data[2 + $1]) << UInt64($1 * 8) }
      guard wanted & ~(features & NetFeature.guestOffloads) == 0 else { break }
      guestOffloads = wanted
      result.isAccepted = true
      result.offloadsChanged = true
    default: break
    }
    return result
  }

  private mutating func setMode(_ mode: UInt8, _ on: Bool) -> Bool {
    if mode > 1, features & NetFeature.controlReceiveExtra == 0 { return false }
    switch mode {
    case 0: isPromiscuous = on
    case 1: allMulticast = on
    case 2: allUnicast = on
    case 3: noMulticast = on
    case 4: noUnicast = on
    case 5: noBroadcast = on
    default: return false
    }
    return true
  }

  /// Two tables, each a count of 32 bits and the addresses.
  private mutating func setTables(_ data: ArraySlice<UInt8>) -> Bool {
    var rest = data
    func take() -> [MACAddress]? {
      guard rest.count >= 4 else { return nil }
      let count = rest.prefix(4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
      rest = rest.dropFirst(4)
      guard UInt64(count) * 6 <= UInt64(rest.count) else { return nil }
      var list: [MACAddress] = []
      list.reserveCapacity(min(Int(count), Self.tableSize + 1))
      for index in 0..<Int(count) {
        let start = rest.startIndex + index * 6
        if list.count <= Self.tableSize { list.append(MACAddress(bytes: rest[start..<start + 6])) }
      }
      rest = rest.dropFirst(Int(count) * 6)
      return list
    }
    guard let first = take(), let second = take(), rest.isEmpty else { return false }
    hasUnicastOverflow = first.count > Self.tableSize
    unicast = hasUnicastOverflow ? [] : first
    // Both share the room.
    hasMulticastOverflow = second.count + unicast.count > Self.tableSize
    multicast = hasMulticastOverflow ? [] : second
    return true
  }
}
