/// A PS/2 mouse's command side, with the IntelliMouse's wheel (IBM PS/2 technical reference, mouse).
package struct PS2Mouse: Equatable, Sendable {
  private static let acknowledge: UInt8 = 0xFA
  private static let resend: UInt8 = 0xFE
  private static let capacity = 256

  private var output: [UInt8] = []
  private var pendingCommand: UInt8?
  private var isReporting = false
  private var isRemote = false
  private var isWrapping = false
  private var isScaled = false
  private var resolution: UInt8 = 2
  private var sampleRate: UInt8 = 100
  /// The last three sample rates: 200, 100, 80 turns the wheel on.
  private var rates: [UInt8] = [0, 0, 0]
  private var hasWheel = false
  private var buttons: UInt8 = 0
  private var lastByte: UInt8 = 0

  package init() {}

  package var hasOutput: Bool { !output.isEmpty }

  package mutating func takeOutput() -> UInt8? {
    guard !output.isEmpty else { return nil }
    lastByte = output.removeFirst()
    return lastByte
  }

  /// A byte from the controller.
  package mutating func write(_ value: UInt8) {
    if isWrapping, value != 0xEC, value != 0xFF {
      send([value])
      return
    }
    if let command = pendingCommand {
      pendingCommand = nil
      if command == 0xF3 { setRate(value) } else { resolution = value & 3 }
      send([PS2Mouse.acknowledge])
      return
    }
    var answer = [PS2Mouse.acknowledge]
    switch value {
    case 0xE6: isScaled = false
    case 0xE7: isScaled = true
    case 0xE8, 0xF3: pendingCommand = value
    case 0xE9:
      let state: UInt8 =
        (isRemote ? 0x40 : 0) | (isReporting ? 0x20 : 0) | (isScaled ? 0x10 : 0) | buttons
      answer += [state, resolution, sampleRate]
    case 0xEA: isRemote = false
    case 0xEB: answer += packet(0, 0, 0)
    case 0xEC: isWrapping = false
    case 0xEE: isWrapping = true
    case 0xF0: isRemote = true
    case 0xF2: answer.append(hasWheel ? 3 : 0)
    case 0xF4: isReporting = true
    case 0xF5: isReporting = false
    case 0xF6: setDefaults()
    case 0xFE: answer = [lastByte]
    case 0xFF:
      self = PS2Mouse()
      answer += [0xAA, 0x00]
    default: answer = [PS2Mouse.resend]
    }
    send(answer)
  }

  /// The user moved it (counts, right and up positive) or its wheel, with `buttons` held (bit 0 left, 1 right, 2 middle); false when
  /// nobody listens.
  package mutating func move(x: Int, y: Int, wheel: Int = 0, buttons held: UInt8) -> Bool {
    buttons = held & 7
    guard isReporting, !isRemote else { return false }
    let bytes = packet(x, y, wheel)
    guard output.count + bytes.count <= PS2Mouse.capacity else { return false }
    output += bytes
    return true
  }

  private func packet(_ x: Int, _ y: Int, _ wheel: Int) -> [UInt8] {
    let dx = min(max(x, -255), 255)
    let dy = min(max(y, -255), 255)
    let head = 0x08 | buttons | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)
    var bytes = [head, UInt8(truncatingIfNeeded: dx), UInt8(truncatingIfNeeded: dy)]
    if hasWheel { bytes.append(UInt8(truncatingIfNeeded: min(max(wheel, -8), 7))) }
    return bytes
  }

  private mutating func setDefaults() {
    let wheel = hasWheel
    self = PS2Mouse()
    hasWheel = wheel
  }

  private mutating func setRate(_ value: UInt8) {
    sampleRate = value
    rates = [rates[1], rates[2], value]
    if rates == [200, 100, 80] { hasWheel = true }
  }

  private mutating func send(_ bytes: [UInt8]) {
    if output.count + bytes.count <= PS2Mouse.capacity { output += bytes }
  }
}
