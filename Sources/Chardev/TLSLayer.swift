package import Host

/// TLS on a connection: a `TLSSession` as a layer. It opens once the peer's identity is verified and allowed.
@MainLoop
package final class TLSLayer: StreamLayer {
  private let session: TLSSession
  package private(set) var state = StreamLayerState.handshaking

  /// A connection with `credentials`, which say which side this is.
  ///
  /// - Parameter hostName: client: whom the server's certificate must name; nil for anyone.
  /// - Parameter authorise: whether a peer of this name may go on; nil for all that are verified.
  ///
  /// Throws `ChardevError` when the credentials cannot serve.
  package init(
    _ credentials: TLSCredentials, hostName: String? = nil,
    authorise: ((String) throws(TLSError) -> Bool)? = nil
  ) throws(ChardevError) {
    do throws(TLSError) {
      session = try TLSSession(credentials, hostName: hostName, authorise: authorise)
    } catch { throw ChardevError(.badOption, error.message) }
  }

  package var peerIdentity: String? { session.peerName }

  package func begin() -> StreamLayerStep { receive([]) }

  package func receive(_ bytes: [UInt8]) -> StreamLayerStep {
    if case .closed = state { return StreamLayerStep() }
    var step = StreamLayerStep()
    do throws(TLSError) {
      step.data = try session.receive(bytes)
      switch session.phase {
      case .handshaking: break
      case .open: state = .open
      case .ended: state = .closed(reason: nil)
      }
    } catch {
      // A peer that breaks off a connection that worked is as good as one that hangs up; one that never got in is news.
      state = .closed(reason: state == .handshaking ? error.message : nil)
    }
    step.outgoing = session.takeOutput()
    return step
  }

  package func send(_ bytes: [UInt8]) -> [UInt8] {
    do throws(TLSError) { try session.send(bytes) } catch {
      state = .closed(reason: error.message)
    }
    return session.takeOutput()
  }

  package func finish() -> [UInt8] {
    session.close()
    return session.takeOutput()
  }
}
