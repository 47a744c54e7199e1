import CSlirp
import Glibc

/// User networking: a TCP/IP stack of libslirp's that turns a guest's connections into sockets of this process.
///
/// Wait until `descriptor` is readable or the time that `run` named has come, then `run`; and after `input`. Main loop only.
@MainLoop
@safe package final class SlirpStack {
  /// What the network is like. Addresses are as text says them, most significant byte first.
  package struct Configuration: Equatable, Sendable {
    package var isRestricted = false
    package var hasIPv4 = true
    package var network: UInt32 = 0x0A00_0200
    package var mask: UInt32 = 0xFFFF_FF00
    package var host: UInt32 = 0x0A00_0202
    package var dhcpStart: UInt32 = 0x0A00_020F
    package var nameServer: UInt32 = 0x0A00_0203
    package var hasIPv6 = true
    /// 16 bytes each.
    package var prefix6: [UInt8] = []
    package var prefixLength6: Int32 = 64
    package var host6: [UInt8] = []
    package var nameServer6: [UInt8] = []
    package var hostName: String?
    package var tftpServerName: String?
    package var tftpPath: String?
    package var bootFile: String?
    package var domainName: String?
    package var dnsSearch: [String] = []
    /// Bytes of the largest IP packet; 0 for the library's usual 1500.
    package var mtu: UInt32 = 0

    package init() {}
  }

  /// What the stack tells its owner, always in the midst of `input` or `run`. A frame is in the buffer from its start.
  package struct Callbacks {
    package var frame: @MainLoop (IOBuffer, Int) -> Void = { _, _ in }
    package var complaint: @MainLoop (String) -> Void = { _ in }
    /// Bytes from the guest for rule number …; answers how many were taken.
    package var forwarded: @MainLoop (Int, [UInt8]) -> Int = { $1.count }

    package init() {}
  }

  /// Whether the library is on this host.
  package static var isAvailable: Bool { goliath_slirp_is_available() != 0 }

  // SAFETY: made in init, freed in deinit, used on the main loop only.
  nonisolated(unsafe) private var stack: OpaquePointer?
  private let callbacks: Callbacks
  private let buffer = IOBuffer(count: 1 << 17)

  /// Nil when the library is missing or refuses the configuration.
  package init?(_ configuration: Configuration, _ callbacks: Callbacks) {
    self.callbacks = callbacks
    unsafe stack = nil
    unsafe stack = make(configuration)
    if unsafe stack == nil { return nil }
  }

  deinit { unsafe goliath_slirp_free(stack) }

  /// To be watched for being readable.
  package var descriptor: Int32 { unsafe goliath_slirp_descriptor(stack) }

  /// Takes a frame from the guest.
  package func input(_ buffer: IOBuffer, _ range: Range<Int>) {
    let range = range.clamped(to: 0..<buffer.count)
    // SAFETY: the range was clamped to the allocation, and the call keeps nothing of it.
    unsafe goliath_slirp_input(
      stack, UnsafePointer((buffer.base + range.lowerBound).assumingMemoryBound(to: UInt8.self)),
      range.count)
  }

  /// Does what is to be done. Answers after how many milliseconds it must run again at the latest (nil: only when the descriptor is
  /// readable), and whether there is more to do right now.
  package func run() -> (wait: Int64?, hasMore: Bool) {
    var more: Int32 = 0
    let wait = unsafe goliath_slirp_run(stack, &more)  // SAFETY: a local lives through the call.
    return (wait < 0 ? nil : wait, more != 0)
  }

  /// Lets connections to a port of the host reach the guest. Answers 0 or an errno.
  package func forwardHost(
    udp: Bool, host: UInt32, hostPort: UInt16, guest: UInt32, guestPort: UInt16
  ) -> Int32 {
    unsafe goliath_slirp_forward_host(
      stack, udp ? 1 : 0, Self.address(host), Int32(hostPort), Self.address(guest),
      Int32(guestPort))
  }

  /// Ends that. Answers 0 or an errno.
  package func unforwardHost(udp: Bool, host: UInt32, hostPort: UInt16) -> Int32 {
    unsafe goliath_slirp_unforward_host(stack, udp ? 1 : 0, Self.address(host), Int32(hostPort))
  }

  /// Connections of the guest to that address run a command for each. Answers 0 or an errno.
  package func forwardCommand(_ command: String, address: UInt32, port: UInt16) -> Int32 {
    // SAFETY: string and address live through the call.
    return unsafe goliath_slirp_forward_command(stack, command, Self.address(address), Int32(port))
  }

  /// Connections of the guest to that address go to a Unix socket. Answers 0 or an errno.
  package func forwardUnix(_ path: String, address: UInt32, port: UInt16) -> Int32 {
    // SAFETY: string and address live through the call.
    return unsafe goliath_slirp_forward_unix(stack, path, Self.address(address), Int32(port))
  }

  /// Connections of the guest to that address come to `forwarded` with this number. Answers 0 or an errno.
  package func forwardGuest(rule: Int, address: UInt32, port: UInt16) -> Int32 {
    // SAFETY: the address lives through the call.
    return unsafe goliath_slirp_forward_guest(
      stack, Int32(truncatingIfNeeded: rule), Self.address(address), Int32(port))
  }

  /// How many bytes such a connection takes at present; 0 while there is none.
  package func room(address: UInt32, port: UInt16) -> Int {
    unsafe goliath_slirp_room(stack, Self.address(address), Int32(port))
  }

  /// Gives such a connection bytes, at most as many as it has room for.
  package func give(_ bytes: [UInt8], address: UInt32, port: UInt16) {
    // SAFETY: the array lives through the call, with its size.
    unsafe goliath_slirp_give(stack, Self.address(address), Int32(port), bytes, bytes.count)
  }

  /// A table of the connections.
  package var connections: String {
    guard let text = unsafe goliath_slirp_connections(stack) else { return "" }
    defer { unsafe free(text) }
    return unsafe String(cString: text)  // SAFETY: the library's text ends with a zero.
  }

  // MARK: -

  private static func address(_ value: UInt32) -> UInt32 { value.bigEndian }

  private func make(_ wanted: Configuration) -> OpaquePointer? {
    // SAFETY: the C strings and the table of them are freed after the call, which copies what it keeps; `self` outlives the stack,
    // which its deinit frees.
    var strings: [UnsafeMutablePointer<CChar>] = unsafe []
    defer { while let string = unsafe strings.popLast() { unsafe free(string) } }
    func text(_ value: String?) -> UnsafePointer<CChar>? {
      guard let value, let copy = unsafe strdup(value) else { return nil }
      unsafe strings.append(copy)
      return unsafe UnsafePointer(copy)
    }
    var configuration = unsafe goliath_slirp_configuration()
    unsafe configuration.restricted = wanted.isRestricted ? 1 : 0
    unsafe configuration.ipv4 = wanted.hasIPv4 ? 1 : 0
    unsafe configuration.network = Self.address(wanted.network)
    unsafe configuration.mask = Self.address(wanted.mask)
    unsafe configuration.host = Self.address(wanted.host)
    unsafe configuration.dhcp_start = Self.address(wanted.dhcpStart)
    unsafe configuration.name_server = Self.address(wanted.nameServer)
    unsafe configuration.ipv6 = wanted.hasIPv6 ? 1 : 0
    unsafe withUnsafeMutableBytes(of: &configuration.prefix6) {
      unsafe $0.copyBytes(from: wanted.prefix6.prefix(16))
    }
    unsafe configuration.prefix_length6 = wanted.prefixLength6
    unsafe withUnsafeMutableBytes(of: &configuration.host6) {
      unsafe $0.copyBytes(from: wanted.host6.prefix(16))
    }
    unsafe withUnsafeMutableBytes(of: &configuration.name_server6) {
      unsafe $0.copyBytes(from: wanted.nameServer6.prefix(16))
    }
    unsafe configuration.host_name = text(wanted.hostName)
    unsafe configuration.tftp_server_name = text(wanted.tftpServerName)
    unsafe configuration.tftp_path = text(wanted.tftpPath)
    unsafe configuration.boot_file = text(wanted.bootFile)
    unsafe configuration.domain_name = text(wanted.domainName)
    unsafe configuration.mtu = wanted.mtu
    var callbacks = goliath_slirp_callbacks()
    unsafe callbacks.frame = { bytes, size, context in
      unsafe SlirpStack.of(context)?.deliver(bytes, size)
    }
    unsafe callbacks.complaint = { text, context in
      guard let text = unsafe text else { return }
      let message = unsafe String(cString: text)
      let stack = unsafe SlirpStack.of(context)
      MainLoop.assumeIsolated { stack?.callbacks.complaint(message) }
    }
    unsafe callbacks.forwarded = { rule, bytes, size, context in
      let copy = unsafe [UInt8](UnsafeBufferPointer(start: bytes, count: size))
      let stack = unsafe SlirpStack.of(context)
      return Int64(MainLoop.assumeIsolated { stack?.callbacks.forwarded(Int(rule), copy) ?? size })
    }
    let search: [UnsafePointer<CChar>?] = unsafe wanted.dnsSearch.map { unsafe text($0) } + [nil]
    return unsafe search.withUnsafeBufferPointer { list in
      if !wanted.dnsSearch.isEmpty { unsafe configuration.dns_search = list.baseAddress }
      return unsafe goliath_slirp_new(
        &configuration, &callbacks, Unmanaged.passUnretained(self).toOpaque())
    }
  }

  /// SAFETY: `context` is what `make` gave: the object that owns the stack which is calling.
  @unsafe
  private nonisolated static func of(_ context: UnsafeMutableRawPointer?) -> SlirpStack? {
    guard let context = unsafe context else { return nil }
    return unsafe Unmanaged<SlirpStack>.fromOpaque(context).takeUnretainedValue()
  }

  private nonisolated func deliver(_ bytes: UnsafePointer<UInt8>?, _ size: Int) {
    guard let bytes = unsafe bytes else { return }
    let size = min(size, buffer.count)
    unsafe memcpy(buffer.base, bytes, size)  // SAFETY: both sides hold `size` bytes.
    MainLoop.assumeIsolated { callbacks.frame(buffer, size) }
  }
}
