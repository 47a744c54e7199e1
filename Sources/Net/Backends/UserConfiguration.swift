package import Host
package import QAPI

/// What `-netdev user` says, checked with QEMU's sentences.
enum UserConfiguration {
  static func make(
    _ options: NetdevUserOptions
  ) throws(NetError) -> SlirpStack.Configuration {
    var result = SlirpStack.Configuration()
    result.isRestricted = options.restrict ?? false
    (result.hasIPv4, result.hasIPv6) = try families(options)
    try setIPv4(options, &result)
    try setIPv6(options, &result)
    if options.smb != nil || options.smbserver != nil {
      throw NetError("Could not find '/usr/sbin/smbd', please install it")
    }
    if let name = options.domainname, name.isEmpty {
      throw NetError("'domainname' parameter cannot be empty")
    }
    for (name, text) in [
      ("domainname", options.domainname), ("vhostname", options.hostname),
      ("tftp-server-name", options.tftpServerName),
    ] where (text?.utf8.count ?? 0) > 255 {
      throw NetError("'\(name)' parameter cannot exceed 255 bytes")
    }
    result.hostName = options.hostname
    result.domainName = options.domainname
    result.tftpServerName = options.tftpServerName
    result.tftpPath = options.tftp
    result.bootFile = options.bootfile
    result.dnsSearch = (options.dnssearch ?? []).map(\.str)
    return result
  }

  private static func families(
    _ options: NetdevUserOptions
  ) throws(NetError) -> (Bool, Bool) {
    var ipv4 = options.ipv4 ?? true
    var ipv6 = options.ipv6 ?? true
    if options.ipv4 == true, options.ipv6 == nil { ipv6 = false }
    if options.ipv6 == true, options.ipv4 == nil { ipv4 = false }
    let network = options.net ?? options.ip
    if !ipv4, network != nil || options.host != nil || options.dns != nil {
      throw NetError("IPv4 disabled but netmask/host/dns provided")
    }
    if !ipv6, options.ipv6Prefix != nil || options.ipv6Host != nil || options.ipv6Dns != nil {
      throw NetError("IPv6 disabled but prefix/host6/dns6 provided")
    }
    if !ipv4, !ipv6 { throw NetError("IPv4 and IPv6 disabled") }
    return (ipv4, ipv6)
  }

  private static func setIPv4(
    _ options: NetdevUserOptions, _ result: inout SlirpStack.Configuration
  ) throws(NetError) {
    if var text = options.net ?? options.ip.map({ $0 + "/24" }) {
      // `ip` is the address of the network.
      if options.net == nil { text = options.ip.map { $0 + "/24" } ?? text }
      (result.network, result.mask) = try network(text)
      result.network &= result.mask
      result.host = result.network | 0x0202 & ~result.mask
      result.dhcpStart = result.network | 0x020F & ~result.mask
      result.nameServer = result.network | 0x0203 & ~result.mask
    }
    func address(_ text: String?, _ place: inout UInt32, _ name: String) throws(NetError) {
      guard let text else { return }
      guard let value = AddressText.ipv4(text) else { throw NetError("Failed to parse \(name)") }
      place = value
    }
    try address(options.host, &result.host, "host")
    guard result.host & result.mask == result.network else {
      throw NetError("Host doesn't belong to network")
    }
    try address(options.dns, &result.nameServer, "DNS")
    if result.isRestricted, result.nameServer & result.mask != result.network {
      throw NetError("DNS doesn't belong to network")
    }
    if result.nameServer == result.host {
      throw NetError("DNS must be different from host")
    }
    try address(options.dhcpstart, &result.dhcpStart, "DHCP start address")
    guard result.dhcpStart & result.mask == result.network else {
      throw NetError("DHCP doesn't belong to network")
    }
    if result.dhcpStart == result.host || result.dhcpStart == result.nameServer {
      throw NetError("DHCP must be different from host and DNS")
    }
  }

  /// An address with a mask, or its length, behind a slash; without, the class of the address decides.
  private static func network(_ text: String) throws(NetError) -> (UInt32, UInt32) {
    var rest = text[...]
    guard let head = AddressText.take(&rest, "/") else {
      guard let address = AddressText.ipv4(text) else {
        throw NetError("Failed to parse netmask")
      }
      let mask: UInt32 =
        if address & 0x8000_0000 == 0 {
          0xFF00_0000
        } else if address & 0xFFF0_0000 == 0xAC10_0000 {
          0xFFF0_0000
        } else if address & 0xC000_0000 == 0x8000_0000 {
          0xFFFF_0000
        } else if address & 0xFFFF_0000 == 0xC0A8_0000 {
          0xFFFF_0000
        } else if address & 0xFFFE_0000 == 0xC612_0000 {
          0xFFFE_0000
        } else if address & 0xE000_0000 == 0xC000_0000 {
          0xFFFF_FF00
        } else {
          0xFFFF_FFF0
        }
      return (address, mask)
    }
    guard let address = AddressText.ipv4(String(head)) else {
      throw NetError("Failed to parse netmask")
    }
    guard let length = Int(rest) else {
      guard let mask = AddressText.ipv4(String(rest)) else {
        throw NetError("Failed to parse netmask (trailing chars)")
      }
      return (address, mask)
    }
    guard (4...32).contains(length) else {
      throw NetError("Invalid netmask provided (must be in range 4-32)")
    }
    return (address, UInt32.max << UInt32(32 - length))
  }

  private static func setIPv6(
    _ options: NetdevUserOptions, _ result: inout SlirpStack.Configuration
  ) throws(NetError) {
    guard let prefix = AddressText.ipv6(options.ipv6Prefix ?? "fec0::") else {
      throw NetError("Failed to parse IPv6 prefix")
    }
    let length = options.ipv6Prefixlen ?? 64
    guard (0...126).contains(length) else {
      throw NetError(
        "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)")
    }
    result.prefix6 = prefix
    result.prefixLength6 = Int32(length)
    func own(_ number: UInt8) -> [UInt8] { prefix.dropLast() + [prefix[15] | number] }
    func belongs(_ address: [UInt8]) -> Bool {
      (0..<length).allSatisfy { bit in
        let difference: UInt8 = address[bit / 8] ^ prefix[bit / 8]
        let mask: UInt8 = 0x80 >> UInt8(bit % 8)
        return difference & mask == 0
      }
    }
    result.host6 = own(2)
    if let text = options.ipv6Host {
      guard let address = AddressText.ipv6(text) else {
        throw NetError("Failed to parse IPv6 host")
      }
      guard belongs(address) else { throw NetError("IPv6 Host doesn't belong to network") }
      result.host6 = address
    }
    result.nameServer6 = own(3)
    if let text = options.ipv6Dns {
      guard let address = AddressText.ipv6(text) else { throw NetError("Failed to parse IPv6 DNS") }
      if result.isRestricted, !belongs(address) {
        throw NetError("IPv6 DNS doesn't belong to network")
      }
      result.nameServer6 = address
    }
  }
}

/// `hostfwd=`: a port of the host that leads to the guest.
package struct HostForward: Equatable, Sendable {
  package var isUDP = false
  package var host: UInt32 = 0
  package var hostPort: UInt16 = 0
  package var guest: UInt32 = 0
  package var guestPort: UInt16 = 0

  /// `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`. Throws with QEMU's sentence.
  package init(_ text: String) throws(NetError) {
    func wrong(_ reason: String) -> NetError {
      NetError("Invalid host forwarding rule '\(text)' (\(reason))")
    }
    var rest = text[...]
    guard let kind = AddressText.take(&rest, ":") else { throw wrong("No : separators") }
    guard kind.isEmpty || kind == "tcp" || kind == "udp" else { throw wrong("Bad protocol name") }
    isUDP = kind == "udp"
    guard let host = AddressText.take(&rest, ":") else { throw wrong("Missing : separator") }
    if !host.isEmpty {
      guard let address = AddressText.ipv4(String(host)) else { throw wrong("Bad host address") }
      self.host = address
    }
    guard let port = AddressText.take(&rest, "-") else { throw wrong("Bad host port separator") }
    guard let number = AddressText.integer(port), let value = UInt16(exactly: number) else {
      throw wrong("Bad host port")
    }
    hostPort = value
    guard let guest = AddressText.take(&rest, ":") else { throw wrong("Missing guest address") }
    if !guest.isEmpty {
      guard let address = AddressText.ipv4(String(guest)) else { throw wrong("Bad guest address") }
      self.guest = address
    }
    guard let last = AddressText.integer(rest), last > 0, let value = UInt16(exactly: last) else {
      throw wrong("Bad guest port")
    }
    guestPort = value
  }

  /// `[tcp|udp]:[hostaddr]:hostport`, for removal; nil when it is none.
  package init?(removing text: String) {
    var rest = text[...]
    guard let kind = AddressText.take(&rest, ":"), kind.isEmpty || kind == "tcp" || kind == "udp",
      let host = AddressText.take(&rest, ":")
    else { return nil }
    isUDP = kind == "udp"
    if !host.isEmpty {
      guard let address = AddressText.ipv4(String(host)) else { return nil }
      self.host = address
    }
    guard let number = AddressText.integer(rest), let value = UInt16(exactly: number) else {
      return nil
    }
    hostPort = value
  }
}

/// `guestfwd=`: an address of the guest's network that leads somewhere on the host.
struct GuestForward: Equatable {
  let address: UInt32
  let port: UInt16
  /// `cmd:…`, or a character device.
  let target: String

  /// `[tcp]:server:port-target`. Throws with QEMU's sentence.
  init(_ text: String) throws(NetError) {
    let wrong = NetError("Invalid guest forwarding rule '\(text)'")
    var rest = text[...]
    guard let kind = AddressText.take(&rest, ":"), kind.isEmpty || kind == "tcp",
      let server = AddressText.take(&rest, ":"), let address = AddressText.ipv4(String(server)),
      let number = AddressText.take(&rest, "-"), let port = Int(number), (1...65535).contains(port)
    else { throw wrong }
    self.address = address
    self.port = UInt16(port)
    target = String(rest)
  }
}
