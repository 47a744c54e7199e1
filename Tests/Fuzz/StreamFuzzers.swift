import Chardev

/// Telnet: the data does not depend on how the bytes arrive, and what is encoded comes back.
struct TelnetFuzzer: Fuzzer {
  private func results(_ parts: [[UInt8]]) -> (data: [UInt8], breaks: Int) {
    var filter = TelnetFilter()
    var all: (data: [UInt8], breaks: Int) = ([], 0)
    for part in parts {
      let (data, breaks) = filter.receive(part)
      all.data += data
      all.breaks += breaks
    }
    return all
  }

  func run(_ input: [UInt8]) {
    require(results([input]) == results(pieces(input)), "pieces make a difference")
    let back = results(pieces(TelnetFilter.encode(input)))
    require(back == (input, 0), "what was encoded does not come back")
  }
}

/// Websockets: handshake and frames do not depend on how the bytes arrive, and keep nothing that grows.
struct WebSocketFuzzer: Fuzzer {
  private func frames(_ parts: [[UInt8]]) -> WebSocketFrames.Step {
    var frames = WebSocketFrames()
    // A step in which nothing happened.
    var all = frames.receive([])
    for part in parts where !all.isOver {
      let step = frames.receive(part)
      require(step.data.count <= part.count, "more data than bytes")
      all.data += step.data
      all.outgoing += step.outgoing
      (all.isOver, all.reason) = (step.isOver, step.reason)
    }
    return all
  }

  private func handshake(_ parts: [[UInt8]]) -> WebSocketHandshake.Outcome {
    var handshake = WebSocketHandshake()
    for (index, part) in parts.enumerated() {
      switch handshake.receive(part, date: "now") {
      case .incomplete: continue
      case .refused(let answer, let reason): return .refused(answer: answer, reason: reason)
      case .accepted(let answer, let rest):
        return .accepted(answer: answer, rest: rest + parts[(index + 1)...].joined())
      }
    }
    return .incomplete
  }

  func run(_ input: [UInt8]) {
    require(frames([input]) == frames(pieces(input)), "pieces make a difference to frames")
    require(handshake([input]) == handshake(pieces(input)), "pieces make a difference to requests")
  }
}
