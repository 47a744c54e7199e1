import Devices
import Host
import Machine

/// Keys on their way to the guest with the pauses between them (`send-key`), and the mouse's buttons.
///
/// Bounded: what does not fit is dropped, as QEMU does it. A guest that does not run gets nothing.
@MainLoop
final class InputQueue {
  /// What comes next.
  enum Step: Equatable {
    /// A key, named by its code of scan code set 1 with bit 7 for the prefix 0xE0.
    case key(UInt8, isDown: Bool)
    case wait(milliseconds: Int)
  }

  private static let limit = 1024

  private var steps: [Step] = []
  private var next = 0
  private var timer: HostTimer?
  private var isWaiting = false
  private weak var machine: Machine?
  /// Buttons that are down: bit 0 left, 1 right, 2 middle.
  private var buttons: UInt8 = 0

  init() {}

  /// Presses the keys in their order and lets them go in the opposite order, with a pause after each, as QEMU does it.
  func press(_ keys: [UInt8], holdTime: Int, on machine: Machine) {
    self.machine = machine
    let pause = Step.wait(milliseconds: max(0, holdTime))
    for key in keys { append([.key(key, isDown: true), pause]) }
    for key in keys.reversed() { append([.key(key, isDown: false), pause]) }
    if !isWaiting { run() }
  }

  /// A key goes down or up, after those that wait.
  func send(_ key: UInt8, isDown: Bool, to machine: Machine) {
    self.machine = machine
    append([.key(key, isDown: isDown)])
    if !isWaiting { run() }
  }

  /// The mouse moves, right and down positive, and turns its wheel; buttons as `button` left them.
  func moveMouse(x: Int, y: Int, wheel: Int, on machine: Machine) {
    guard machine.isRunning, let controller = machine.keyboardController else { return }
    // A report holds nine bits for each direction; far movements take several, but not more than the mouse keeps.
    var (left, down, turns) = (x, y, wheel)
    for _ in 0..<64 {
      let (dx, dy) = (min(max(left, -127), 127), min(max(down, -127), 127))
      let dz = min(max(turns, -7), 7)
      guard controller.moveMouse(x: dx, y: -dy, wheel: dz, buttons: buttons) else { return }
      left -= dx
      down -= dy
      turns -= dz
      if left == 0, down == 0, turns == 0 { return }
    }
  }

  /// A button goes down or up; the guest hears of it with the next `moveMouse`.
  func button(_ bit: UInt8, isDown: Bool) {
    buttons = isDown ? buttons | bit : buttons & ~bit
  }

  // MARK: -

  private func append(_ list: [Step]) {
    for step in list where steps.count - next < Self.limit { steps.append(step) }
  }

  private func run() {
    while next < steps.count {
      let step = steps[next]
      next += 1
      switch step {
      case .key(let key, let isDown):
        if let machine, machine.isRunning { machine.keyboardController?.key(key, isDown: isDown) }
      case .wait(let milliseconds):
        let timer =
          timer
          ?? MainLoop.timers.makeTimer { [weak self] in
            MainLoop.assumeIsolated { self?.resume() }
          }
        self.timer = timer
        isWaiting = true
        let (nanoseconds, overflow) = Int64(milliseconds).multipliedReportingOverflow(
          by: 1_000_000)
        let (deadline, late) = HostClock.monotonic.addingReportingOverflow(nanoseconds)
        timer.arm(at: overflow || late ? Int64.max - 1 : deadline)
        return
      }
    }
    steps.removeAll(keepingCapacity: true)
    next = 0
  }

  private func resume() {
    isWaiting = false
    // What was done is forgotten here too: keys may come faster than they are let go.
    steps.removeFirst(next)
    next = 0
    run()
  }
}
