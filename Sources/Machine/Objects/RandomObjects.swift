package import DeviceModel
import Glibc
package import Host
import JSON
package import QAPI

/// `rng-builtin`: the kernel's generator (getrandom(2)), which never runs dry.
@MainLoop
package final class BuiltinRandom: UserObject, RandomSource {
  package let typeName = "rng-builtin"
  /// Requests that wait for the next turn of the main loop.
  private var pending: [@MainLoop () -> Void] = []
  private var isScheduled = false

  /// Throws when `opened` is given, as QEMU does.
  package init(_ options: RngProperties) throws(QAPIError) {
    if options.opened != nil { throw QAPIError("Property 'rng-builtin.opened' is not writable") }
  }

  package var objectProperties: [ObjectProperty] { [.constant("opened", "bool", .bool(true))] }

  /// Answers from the main loop's next turn on, so that a device is not called back in the midst of its own request.
  package func request(_ count: Int, _ deliver: @escaping @MainLoop ([UInt8]) -> Void) {
    pending.append {
      var generator = SystemRandomNumberGenerator()
      let limit = max(0, min(count, 1 << 16))
      var bytes: [UInt8] = []
      bytes.reserveCapacity(limit + 7)
      while bytes.count < limit {
        var word = generator.next()
        for _ in 0..<8 {
          bytes.append(UInt8(truncatingIfNeeded: word))
          word >>= 8
        }
      }
      bytes.removeLast(bytes.count - limit)
      deliver(bytes)
    }
    guard !isScheduled else { return }
    isScheduled = true
    MainLoop.post { [weak self] in self?.serve() }
  }

  private func serve() {
    isScheduled = false
    let requests = pending
    pending = []
    for request in requests { request() }
  }

  package func cancelRequests() { pending = [] }
}

/// `rng-random`: bytes from a device or file of the host, such as `/dev/hwrng`, which may take its time.
@MainLoop
package final class HostRandom: UserObject, RandomSource {
  package let typeName = "rng-random"
  private let filename: String
  private var source: DeviceReader?
  private var requests: [(count: Int, deliver: @MainLoop ([UInt8]) -> Void)] = []

  /// Throws when `opened` is given, as QEMU does.
  package init(_ options: RngRandomProperties) throws(QAPIError) {
    if options.opened != nil { throw QAPIError("Property 'rng-random.opened' is not writable") }
    filename = options.filename ?? "/dev/urandom"
  }

  package var objectProperties: [ObjectProperty] {
    [
      .constant("opened", "bool", .bool(true)),
      .constant("filename", "string", .string(filename)) { _ throws(QAPIError) in
        throw QAPIError("Property 'filename' can no longer be set")
      },
    ]
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    do throws(SystemError) {
      source = try DeviceReader(filename)
    } catch {
      throw QAPIError("Could not open '\(filename)': \(error.reason)")
    }
  }

  package func deleted() {
    cancelRequests()
    source = nil
  }

  package func request(_ count: Int, _ deliver: @escaping @MainLoop ([UInt8]) -> Void) {
    requests.append((count, deliver))
    if requests.count == 1 { readNext() }
  }

  package func cancelRequests() { requests = [] }

  private func readNext() {
    guard let first = requests.first, let source else { return }
    source.read(max(1, min(first.count, 1 << 16))) { [weak self] bytes in
      guard let self, !requests.isEmpty else { return }
      let request = requests.removeFirst()
      request.deliver(Array(bytes.prefix(request.count)))
      readNext()
    }
  }
}
