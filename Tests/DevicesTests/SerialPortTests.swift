import DeviceModel
import Devices
import Support
import Synchronization
import Testing

/// A backend that takes only so much.
private final class Backend: Sendable {
  struct State {
    var bytes: [UInt8] = []
    var room = Int.max
    var readyCalls = 0
  }
  let state = Mutex(State())

  var sink: CharacterSink {
    CharacterSink(
      send: { [self] bytes in
        state.withLock { state in
          let taken = min(bytes.count, state.room)
          state.bytes += bytes[..<taken]
          state.room -= taken
          return taken
        }
      }, receiveReady: { [self] in state.withLock { $0.readyCalls += 1 } })
  }
}

@Suite struct SerialPortTests {
  private func makePort() throws -> (TimerBench, SerialPort, Backend) {
    let bench = TimerBench()
    let port = try SerialPort(index: 0)
    try port.realize(in: bench.context)
    let backend = Backend()
    port.attach(backend.sink)
    return (bench, port, backend)
  }

  @Test func writtenCharactersReachTheBackend() throws {
    let (bench, _, backend) = try makePort()
    for byte in Array("hello".utf8) { bench.out(0x3F8, byte) }
    #expect(backend.state.withLock { $0.bytes } == Array("hello".utf8))
  }

  /// The write ends the interrupt of the empty transmitter, the backend takes the character at once, the transmitter is empty again: a driver
  /// that waits for the edge must see it.
  @Test func everyInterruptHasAnEdgeOfItsOwn() throws {
    let (bench, port, backend) = try makePort()
    bench.out(0x3F9, 0x02)
    #expect(bench.lines[4].rises == 1)
    bench.out(0x3F8, 0x41)
    #expect(bench.lines[4].rises == 2)
    // And where the backend takes it later, once.
    backend.state.withLock { $0.room = 0 }
    bench.out(0x3F8, 0x42)
    #expect(bench.lines[4].rises == 2)
    backend.state.withLock { $0.room = 1 }
    port.backendWritable()
    #expect(bench.lines[4].rises == 3)
  }

  @Test func fullBackendHoldsTheGuestAndNothingIsLost() throws {
    let (bench, port, backend) = try makePort()
    backend.state.withLock { $0.room = 3 }
    bench.out(0x3FA, 0x01)
    var sent: [UInt8] = []
    var next: UInt8 = 0
    for _ in 0..<100 {
      if bench.in(0x3FD) & 0x20 != 0 {
        for _ in 0..<16 {
          bench.out(0x3F8, next)
          sent.append(next)
          next &+= 1
        }
      } else {
        backend.state.withLock { $0.room = 7 }
        port.backendWritable()
      }
    }
    backend.state.withLock { $0.room = Int.max }
    port.backendWritable()
    #expect(backend.state.withLock { $0.bytes } == sent)
    #expect(sent.count > 100)
  }

  @Test func writersOnManyThreadsKeepEveryCharacter() async throws {
    let (bench, _, backend) = try makePort()
    await withTaskGroup(of: Void.self) { group in
      for writer in 0..<4 {
        group.addTask {
          for _ in 0..<500 {
            while bench.in(0x3FD) & 0x20 == 0 {}
            bench.out(0x3F8, UInt8(writer))
          }
        }
      }
    }
    // Two writers may see the same empty register; what the register then held was overwritten, as in hardware. None is duplicated.
    #expect(backend.state.withLock { $0.bytes.count } <= 2000)
    #expect(backend.state.withLock { $0.bytes.count } > 1000)
  }

  @Test func inputThatDoesNotFitIsAskedForWhenThereIsSpace() throws {
    let (bench, port, backend) = try makePort()
    bench.out(0x3FA, 0x01)
    let input = ArraySlice<UInt8>(0..<20)
    #expect(port.receive(input) == 16)
    #expect(backend.state.withLock { $0.readyCalls } == 0)
    #expect(bench.in(0x3F8) == 0)
    #expect(backend.state.withLock { $0.readyCalls } == 1)
    #expect(port.receive(input[16...]) == 1)
  }

  @Test func timeoutRaisesTheLineAfterFourCharacterTimes() throws {
    let (bench, port, _) = try makePort()
    bench.out(0x3FB, 0x83)
    bench.out(0x3F8, 1)
    bench.out(0x3F9, 0)
    bench.out(0x3FB, 0x03)
    bench.out(0x3FA, 0xC1)
    bench.out(0x3F9, 0x01)
    #expect(port.receive([0x61]) == 1)
    #expect(!bench.lines[4].level)
    bench.clock.advance(by: 340_000)
    #expect(!bench.lines[4].level)
    bench.clock.advance(by: 10_000)
    #expect(bench.lines[4].level)
    #expect(bench.in(0x3FA) == 0xCC)
    #expect(bench.in(0x3F8) == 0x61)
    #expect(!bench.lines[4].level)
  }
}
