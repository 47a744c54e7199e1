import CLinux
import Glibc

/// Tap interfaces of the kernel, and the scripts and helpers that set them up. Everything here may block; for start-up.
package enum TapDevice {
  /// What the kernel may hand to a reader without computing it (TUN_F_…, linux/if_tun.h).
  package struct Offloads: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static let checksum = Offloads(rawValue: 1)
    package static let tso4 = Offloads(rawValue: 2)
    package static let tso6 = Offloads(rawValue: 4)
    package static let ecn = Offloads(rawValue: 8)
    package static let ufo = Offloads(rawValue: 16)
  }

  /// An interface that was opened; whoever has it closes the descriptor.
  package struct Opened: Sendable {
    package let descriptor: Int32
    package let name: String
    /// Frames carry a header for offloads.
    package let hasHeader: Bool
  }

  /// Opens an interface (nil: a name of the kernel's choice). `wantsHeader`: true insists, nil takes it where the kernel has it.
  /// Throws `SystemError`.
  package static func open(
    _ name: String?, wantsHeader: Bool?, queues: Int32
  ) throws(SystemError) -> Opened {
    var buffer = [CChar](repeating: 0, count: 64)
    for (index, byte) in (name ?? "").utf8.prefix(15).enumerated() {
      buffer[index] = CChar(bitPattern: byte)
    }
    var header: Int32 = wantsHeader == false ? 0 : 1
    // SAFETY: the buffer's size is passed along; both locals live through the call.
    let result = unsafe goliath_tap_open(&buffer, 64, &header, wantsHeader == true ? 1 : 0, queues)
    guard result >= 0 else { throw SystemError(call: "TUNSETIFF", code: -result) }
    let text = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    return Opened(
      descriptor: result, name: String(decoding: text, as: UTF8.self), hasHeader: header != 0)
  }

  /// Whether frames of an open tap descriptor carry a header for offloads; nil when it is no tap.
  package static func hasHeader(_ descriptor: Int32) -> Bool? {
    let result = goliath_tap_has_header(descriptor)
    return result < 0 ? nil : result != 0
  }

  /// Whether the header may have `size` bytes from now on.
  package static func setHeaderSize(_ descriptor: Int32, _ size: Int) -> Bool {
    goliath_tap_set_header_size(descriptor, Int32(truncatingIfNeeded: size)) == 0
  }

  /// Says what may be left to whoever reads frames.
  @discardableResult
  package static func setOffloads(_ descriptor: Int32, _ offloads: Offloads) -> Bool {
    goliath_tap_set_offload(descriptor, offloads.rawValue) == 0
  }

  /// Limits how much the kernel queues of what is written. Throws `SystemError`.
  package static func setSendBuffer(_ descriptor: Int32, _ size: Int32) throws(SystemError) {
    let result = goliath_tap_set_send_buffer(descriptor, size)
    guard result >= 0 else { throw SystemError(call: "TUNSETSNDBUF", code: -result) }
  }

  /// Takes one queue of a multiqueue interface into use, or out of it.
  package static func setQueue(_ descriptor: Int32, on: Bool) {
    _ = goliath_tap_set_queue(descriptor, on ? 1 : 0)
  }

  /// Runs `path` with the interface's name; answers its exit status. Throws `SystemError` when it cannot be started.
  package static func runScript(_ path: String, _ interface: String) throws(SystemError) -> Int32 {
    // SAFETY: both strings live through the call.
    let result = unsafe goliath_run_script(path, interface)
    guard result >= 0 else { throw SystemError(call: "fork", code: -result) }
    return result
  }

  /// Has a helper make an interface on a bridge; nil when it fails.
  package static func runBridgeHelper(
    _ helper: String, bridge: String, withHeader: Bool
  ) -> FileDescriptor? {
    // SAFETY: both strings live through the call.
    let result = unsafe goliath_run_bridge_helper(helper, bridge, withHeader ? 1 : 0)
    return result < 0 ? nil : FileDescriptor(owning: result)
  }
}

extension Socket {
  /// A socket that sends to and receives from an IPv4 multicast group; `interface` is the address of the one to use. Throws `SocketError`.
  package static func multicast(
    _ group: ResolvedAddress, interface: [UInt8]?
  ) throws(SocketError) -> FileDescriptor {
    guard group.family == AF_INET, group.bytes.count >= 16 else {
      throw SocketError("specified mcastaddr does not contain a multicast address")
    }
    // SAFETY: the address is a whole sockaddr_in, the interface four bytes; both live through the call.
    let result = unsafe group.withSockaddr { address, _ in
      if let interface, interface.count == 4 {
        return unsafe interface.withUnsafeBytes {
          unsafe goliath_multicast_socket(address, $0.baseAddress)
        }
      }
      return unsafe goliath_multicast_socket(address, nil)
    }
    if result == -EADDRNOTAVAIL {
      throw SocketError(
        "specified mcastaddr \(group.text.split(separator: ":").first ?? "") (0x"
          + group.bytes[4..<8].map { Self.hexadecimal($0) }.joined()
          + ") does not contain a multicast address")
    }
    guard result >= 0 else {
      throw SocketError(
        "can't bind to multicast address", SystemError(call: "bind", code: -result))
    }
    return FileDescriptor(owning: result)
  }

  private static func hexadecimal(_ byte: UInt8) -> String {
    let text = String(byte, radix: 16)
    return text.utf8.count == 1 ? "0" + text : text
  }

  /// A datagram socket at `local`, without a peer. Throws `SocketError`.
  package static func boundDatagram(_ local: ResolvedAddress) throws(SocketError) -> FileDescriptor
  {
    let number: Int32
    do throws(SystemError) {
      number = try SystemError.check("socket") { () -> Int32 in
        Glibc.socket(
          local.family,
          datagramKind | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
      }
    } catch { throw SocketError("can't create datagram socket: \(error.reason)", code: error.code) }
    let socket = FileDescriptor(owning: number)
    var one: Int32 = 1
    // SAFETY: four bytes of a local, and the address's bytes, live through their calls.
    _ = unsafe setsockopt(number, SOL_SOCKET, SO_REUSEADDR, &one, 4)
    do throws(SystemError) {
      try SystemError.check("bind") { () -> Int32 in
        unsafe local.withSockaddr { unsafe Glibc.bind(number, $0, $1) }
      }
    } catch {
      throw SocketError("can't bind ip=\(local.text) to socket: \(error.reason)", code: error.code)
    }
    return socket
  }

  /// The kind of an open socket (`SOCK_STREAM`, `SOCK_DGRAM`); nil when it is none.
  package static func kind(of descriptor: Int32) -> Int32? {
    var value: Int32 = 0
    var length = socklen_t(4)
    // SAFETY: both locals live through the call.
    let result = unsafe getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &value, &length)
    return result == 0 ? value : nil
  }
}
