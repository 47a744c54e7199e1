import Host

/// Telnet on a connection: `TelnetFilter` as a layer. It announces its options and is open at once.
@MainLoop
final class TelnetLayer: StreamLayer {
  private var filter = TelnetFilter()
  let state = StreamLayerState.open

  func begin() -> StreamLayerStep { StreamLayerStep(outgoing: TelnetFilter.opening) }

  func receive(_ bytes: [UInt8]) -> StreamLayerStep {
    let (data, breaks) = filter.receive(bytes)
    return StreamLayerStep(data: data, breaks: breaks)
  }

  func send(_ bytes: [UInt8]) -> [UInt8] { TelnetFilter.encode(bytes) }
}
