package import Host

/// Whether a layer of a connection lets data through.
package enum StreamLayerState: Equatable, Sendable {
  /// It still talks to its other side; no data passes.
  case handshaking
  /// Data passes in both directions.
  case open
  /// It ended: the connection is to be closed once what it has to send is sent. A reason is reported to the user; none means an
  /// orderly end.
  case closed(reason: String?)
}

/// What follows from bytes that a layer took.
package struct StreamLayerStep: Sendable {
  /// Data for the layer above.
  package var data: [UInt8]
  /// Bytes for the layer below, to be sent before anything else: answers of the layer's own protocol.
  package var outgoing: [UInt8]
  /// How many break conditions came (telnet).
  package var breaks: Int

  package init(data: [UInt8] = [], outgoing: [UInt8] = [], breaks: Int = 0) {
    self.data = data
    self.outgoing = outgoing
    self.breaks = breaks
  }
}

/// A protocol between a socket and the frontend of a character device: TLS, websocket, telnet. One object for each connection.
///
/// Bytes in, bytes out, no descriptors, no clock, nothing that waits: whoever owns the connection (`ClientStream`) moves the bytes.
/// Layers are stacked; the lowest one is next to the socket. After each call the owner looks at `state`. The layer above begins
/// when this one is `open`. What a layer keeps to itself (a record that is not whole yet) it must bound.
@MainLoop
package protocol StreamLayer: AnyObject {
  /// How far it is.
  var state: StreamLayerState { get }

  /// The connection is there (or the layer below has opened). Called once, first. May open at once (telnet).
  func begin() -> StreamLayerStep

  /// Takes bytes from below, all of them. While `handshaking`, and after `closed`, it gives no data.
  func receive(_ bytes: [UInt8]) -> StreamLayerStep

  /// Turns data from above into bytes for below; only called while `open`. `bytes` is not empty and has at most 64 KiB.
  func send(_ bytes: [UInt8]) -> [UInt8]

  /// What says goodbye to the other side (TLS close_notify, a websocket close frame); called at most once, while `open`.
  func finish() -> [UInt8]

  /// Who the other side has proved to be (a certificate's distinguished name, a PSK user); nil when it has not.
  var peerIdentity: String? { get }
}

extension StreamLayer {
  package func finish() -> [UInt8] { [] }
  package var peerIdentity: String? { nil }
}

/// Makes a layer for one more connection. Throws `ChardevError` when that is impossible now: the connection is closed.
package typealias StreamLayerFactory = @MainLoop () throws(ChardevError) -> any StreamLayer

/// The layers of one connection, as one. The first is the lowest.
@MainLoop
struct StreamLayerStack {
  private let layers: [any StreamLayer]
  private var openCount = 0
  private(set) var ending: StreamLayerState?

  init(_ layers: [any StreamLayer]) { self.layers = layers }

  /// Whether data passes unchanged.
  var isEmpty: Bool { layers.isEmpty }
  /// Whether data passes.
  var isOpen: Bool { openCount == layers.count && ending == nil }
  var peerIdentity: String? {
    for layer in layers { if let name = layer.peerIdentity { return name } }
    return nil
  }

  mutating func begin() -> StreamLayerStep {
    var outgoing: [UInt8] = []
    if let first = layers.first {
      outgoing = first.begin().outgoing
      advance(0, &outgoing)
    }
    return StreamLayerStep(outgoing: outgoing)
  }

  mutating func receive(_ bytes: [UInt8]) -> StreamLayerStep {
    var result = StreamLayerStep(data: bytes)
    var reached = 0
    for index in layers.indices {
      // A layer that ended may have given data before: the ones above take it all the same.
      guard index <= openCount, !result.data.isEmpty else { break }
      reached = index + 1
      let step = layers[index].receive(result.data)
      result.data = step.data
      result.breaks += step.breaks
      result.outgoing += encode(step.outgoing, below: index)
      advance(index, &result.outgoing)
    }
    // What did not get through the topmost layer is no data.
    if reached < layers.count { result.data = [] }
    return result
  }

  /// Data as it goes onto the socket.
  func send(_ bytes: [UInt8]) -> [UInt8] { encode(bytes, below: layers.count) }

  func finish() -> [UInt8] {
    guard ending == nil else { return [] }
    var bytes: [UInt8] = []
    for index in layers.indices.prefix(openCount).reversed() {
      bytes += encode(layers[index].finish(), below: index)
    }
    return bytes
  }

  /// Looks at what became of a layer; opens the ones above it.
  private mutating func advance(_ index: Int, _ outgoing: inout [UInt8]) {
    var index = index
    while true {
      switch layers[index].state {
      case .handshaking: return
      case .closed:
        if ending == nil { ending = layers[index].state }
        return
      case .open: break
      }
      guard index == openCount else { return }
      openCount += 1
      index += 1
      guard index < layers.count else { return }
      outgoing += encode(layers[index].begin().outgoing, below: index)
    }
  }

  private func encode(_ bytes: [UInt8], below index: Int) -> [UInt8] {
    var bytes = bytes
    for layer in layers.prefix(index).reversed() where !bytes.isEmpty { bytes = layer.send(bytes) }
    return bytes
  }
}
