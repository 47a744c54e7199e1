import Host

/// One attempt to connect without waiting: resolves names on a thread of its own, tries the addresses in turn.
@MainLoop
final class ConnectionAttempt {
  enum Result {
    /// The caller owns the descriptor.
    case connected(Int32)
    case failed(String)
  }

  private var candidates: [ResolvedAddress] = []
  private var name = ""
  private var watch: Watch?
  private var socket: Int32 = -1
  private var lastReason = "No such file or directory"
  private var completion: ((Result) -> Void)?

  init(_ address: SocketAddress, _ completion: @escaping (Result) -> Void) {
    self.completion = completion
    do throws(SystemError) {
      _ = try HostThread(name: "resolve") { [weak self] in
        let resolved: Swift.Result<(addresses: [ResolvedAddress], name: String), SocketError>
        do throws(SocketError) {
          resolved = .success(try Socket.candidates(address))
        } catch { resolved = .failure(error) }
        MainLoop.post { self?.resolved(resolved) }
      }
    } catch { finish(.failed(error.reason)) }
  }

  func cancel() {
    completion = nil
    dropSocket()
  }

  private func resolved(
    _ result: Swift.Result<(addresses: [ResolvedAddress], name: String), SocketError>
  ) {
    switch result {
    case .failure(let error): finish(.failed(error.message))
    case .success(let (addresses, name)):
      candidates = addresses
      self.name = name
      tryNext()
    }
  }

  private func tryNext() {
    guard completion != nil else { return }
    while !candidates.isEmpty {
      let address = candidates.removeFirst()
      do throws(SystemError) {
        let (number, isPending) = try Socket.startConnecting(address)
        if !isPending { return finish(.connected(number)) }
        socket = number
        watch = try MainLoop.watch(number, .writable) { [weak self] _ in self?.settled() }
        return
      } catch {
        lastReason = error.reason
        dropSocket()
      }
    }
    finish(.failed("Failed to connect to '\(name)': \(lastReason)"))
  }

  private func settled() {
    let code = Socket.connectResult(socket)
    watch?.cancel()
    watch = nil
    if code == 0 {
      let number = socket
      socket = -1
      finish(.connected(number))
    } else {
      lastReason = SystemError(call: "connect", code: code).reason
      dropSocket()
      tryNext()
    }
  }

  private func dropSocket() {
    watch?.cancel()
    watch = nil
    if socket >= 0 { FileDescriptor(owning: socket).close() }
    socket = -1
  }

  private func finish(_ result: Result) {
    let completion = completion
    self.completion = nil
    if let completion {
      completion(result)
    } else if case .connected(let number) = result {
      FileDescriptor(owning: number).close()
    }
  }
}
