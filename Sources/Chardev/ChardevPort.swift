import Host
import Synchronization

/// What a port belongs to: a device, or one client of a device that serves many.
@MainLoop
protocol ChardevPortOwner: AnyObject {
  /// Whether someone is at the other side.
  var isOpen: Bool { get }
  /// Sends a frontend's bytes from `start` on; answers how many were taken. When not all, it calls `flush` later.
  func transmit(_ bytes: [UInt8], from start: Int) -> Int
  /// The frontend of `port` can take bytes again.
  func resume(_ port: ChardevPort)
  func detach(_ port: ChardevPort)
  /// Begins or stops reading, as the frontends of this want it.
  func updateReceiving()
  func setLine(_ line: ChardevLine)
}

/// Speed and frame of a serial line.
package struct ChardevLine: Equatable, Sendable {
  /// Bits a second.
  package var speed: Int32
  package var dataBits: Int32
  /// `N`, `E` or `O`.
  package var parity: Character
  package var stopBits: Int32
  package var isSendingBreak: Bool

  package init(
    speed: Int32, dataBits: Int32, parity: Character, stopBits: Int32, isSendingBreak: Bool
  ) {
    self.speed = speed
    self.dataBits = dataBits
    self.parity = parity
    self.stopBits = stopBits
    self.isSendingBreak = isSendingBreak
  }
}

/// A frontend's end of a character device: where it writes, from any thread.
///
/// Bytes go to a queue and from there, on the main loop, to the device; a vCPU that writes never waits.
/// The queue is bounded by the limit given at `Chardev.attach`.
package final class ChardevPort: Sendable {
  private struct Output {
    var bytes: [UInt8] = []
    /// How many older bytes are in `inFlight`.
    var inFlightCount = 0
    /// A flush is on its way, or the device was full and will say when it is not.
    var isFlushing = false
    /// Something was refused: the frontend wants `chardevDrained`.
    var isStarved = false
  }

  private let output = Mutex(Output())
  /// Bytes that were taken out of the queue; those before `inFlightStart` are gone.
  @MainLoop private var inFlight: [UInt8] = []
  @MainLoop private var inFlightStart = 0
  /// The most bytes that may wait.
  private let limit: Int
  @MainLoop var frontend: (any ChardevFrontend)?
  /// Strong, for speed: objects that are referred to weakly count references slowly. `disown` ends it.
  @MainLoop private(set) var owner: (any ChardevPortOwner)?
  /// The frontend wants nothing to be read at present.
  @MainLoop private(set) var isPaused = false
  /// Bytes that the frontend did not take yet.
  @MainLoop var held: [UInt8] = []
  /// The frontend has left.
  @MainLoop private var isDetached = false
  /// Whether the frontend knows that the device is open.
  @MainLoop var isAnnounced = false

  @MainLoop
  init(
    _ owner: any ChardevPortOwner, _ frontend: (any ChardevFrontend)? = nil, limit: Int
  ) {
    self.owner = owner
    self.frontend = frontend
    self.limit = limit
  }

  /// Writes; answers how many bytes, from the first, were taken. When not all: `chardevDrained` follows. Any thread.
  @discardableResult
  package func write(_ bytes: [UInt8]) -> Int {
    if MainLoop.isCurrent { return MainLoop.assumeIsolated { writeHere(bytes) } }
    return enqueue(bytes)
  }

  /// `write` on the main loop: goes to the device without a detour when nothing waits before it.
  @MainLoop
  private func writeHere(_ bytes: [UInt8]) -> Int {
    let isFirst = output.withLock { state in
      guard !state.isFlushing, state.bytes.isEmpty, bytes.count <= limit else { return false }
      state.isFlushing = true
      return true
    }
    guard isFirst, let owner else { return enqueue(bytes) }
    let taken = owner.transmit(bytes, from: 0)
    inFlight = taken < bytes.count ? bytes : []
    inFlightStart = taken < bytes.count ? taken : 0
    let mustFlush = output.withLock { state in
      state.inFlightCount = bytes.count - taken
      // The device calls when it has room; else what came meanwhile is next.
      state.isFlushing = taken < bytes.count || !state.bytes.isEmpty
      return taken == bytes.count && !state.bytes.isEmpty
    }
    if mustFlush { flush() }
    return bytes.count
  }

  private func enqueue(_ bytes: [UInt8]) -> Int {
    let (taken, mustFlush) = output.withLock { state in
      let room = max(0, limit - state.bytes.count - state.inFlightCount)
      let taken = min(room, bytes.count)
      if taken == bytes.count { state.bytes += bytes } else { state.bytes += bytes.prefix(taken) }
      if taken < bytes.count { state.isStarved = true }
      return (taken, ChardevPort.claimFlush(&state))
    }
    if mustFlush { startFlush() }
    return taken
  }

  /// Writes one byte without allocating; false when there is no room. Any thread.
  package func write(_ byte: UInt8) -> Bool {
    let (taken, mustFlush) = output.withLock { state in
      guard state.bytes.count + state.inFlightCount < limit else {
        state.isStarved = true
        return (false, ChardevPort.claimFlush(&state))
      }
      state.bytes.append(byte)
      return (true, ChardevPort.claimFlush(&state))
    }
    if mustFlush { startFlush() }
    return taken
  }

  /// The frontend can take bytes again. Any thread.
  package func resumeReceiving() {
    // Never at once: the frontend may say this in the midst of `chardevReceived`, before the rest of those bytes is held.
    MainLoop.post { self.owner?.resume(self) }
  }

  /// Sets speed and frame of a serial line of the host; nothing on other devices. Any thread.
  package func setLine(_ line: ChardevLine) { MainLoop.post { self.owner?.setLine(line) } }

  /// How many bytes wait to be sent. Any thread.
  package var queuedByteCount: Int {
    output.withLock { $0.bytes.count + $0.inFlightCount }
  }

  /// Asks for `chardevDrained` once nothing waits to be sent any more, as after a refused write. Nothing when nothing waits now.
  /// For a frontend that answers requests: it takes no further ones from a client that does not read. Any thread.
  package func notifyWhenDrained() {
    output.withLock { state in
      if state.bytes.count + state.inFlightCount > 0 { state.isStarved = true }
    }
  }

  /// Stops reading, or lets it go on; bytes that were read are offered all the same.
  @MainLoop
  package func setPaused(_ isPaused: Bool) {
    guard isPaused != self.isPaused else { return }
    self.isPaused = isPaused
    owner?.updateReceiving()
  }

  /// The device or the connection is gone for good.
  @MainLoop
  func disown() { owner = nil }

  /// Ends the attachment: the frontend hears no more, what is queued goes out.
  @MainLoop
  package func detach() {
    isDetached = true
    owner?.detach(self)
    frontend = nil
  }

  // MARK: - Receiving

  /// Gives bytes to the frontend; keeps what it does not take, and what comes after that.
  @MainLoop
  func offer(_ bytes: [UInt8]) {
    guard held.isEmpty else {
      held += bytes
      return
    }
    guard let frontend else { return }
    let taken = min(max(frontend.chardevReceived(bytes), 0), bytes.count)
    // The frontend may have left or the connection ended meanwhile.
    if taken < bytes.count, !isDetached, owner?.isOpen == true {
      held = Array(bytes[taken...]) + held
    }
  }

  /// Gives what is kept to the frontend again.
  @MainLoop
  func offerHeld() {
    let bytes = exchange(&held, with: [])
    if !bytes.isEmpty { offer(bytes) }
  }

  // MARK: -

  private static func claimFlush(_ state: inout Output) -> Bool {
    if state.isFlushing || state.bytes.isEmpty { return false }
    state.isFlushing = true
    return true
  }

  private func startFlush() {
    if MainLoop.isCurrent {
      MainLoop.assumeIsolated { flush() }
    } else {
      MainLoop.post { self.flush() }
    }
  }

  /// Moves the queue into the device as far as it takes it; the device calls again when it was full.
  @MainLoop
  func flush() {
    while true {
      if inFlightStart == inFlight.count { refill() }
      if inFlight.isEmpty {
        // `refill` has ended the flush; a writer that was refused may go on.
        let wasStarved = output.withLock { exchange(&$0.isStarved, with: false) }
        if wasStarved { frontend?.chardevDrained() }
        return
      }
      let left = inFlight.count - inFlightStart
      let taken = owner?.transmit(inFlight, from: inFlightStart) ?? left
      // The transport may have closed and dropped everything meanwhile.
      if inFlight.isEmpty { continue }
      inFlightStart += taken
      let rest = left - taken
      output.withLock { $0.inFlightCount = rest }
      if rest > 0 { return }
    }
  }

  /// Takes what was written since; ends the flush when that is nothing.
  @MainLoop
  private func refill() {
    inFlightStart = 0
    inFlight = output.withLock { state in
      state.isFlushing = !state.bytes.isEmpty
      state.inFlightCount = state.bytes.count
      return exchange(&state.bytes, with: [])
    }
  }

  /// Takes what waits out of the queue; for the end of the process.
  @MainLoop
  func takeQueued() -> [UInt8] {
    let older = inFlight[inFlightStart...]
    inFlight = []
    inFlightStart = 0
    return output.withLock { state in
      state.inFlightCount = 0
      return older + exchange(&state.bytes, with: [])
    }
  }

  /// Drops what waits: nobody is at the other side.
  @MainLoop
  func discardOutput() {
    _ = takeQueued()
    let wasStarved = output.withLock { state in
      state.isFlushing = false
      return exchange(&state.isStarved, with: false)
    }
    if wasStarved { frontend?.chardevDrained() }
  }
}

/// Stores a new value and answers the old one.
func exchange<T>(_ place: inout T, with value: T) -> T {
  let old = place
  place = value
  return old
}
