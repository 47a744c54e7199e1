/// A PS/2 keyboard's command side (IBM PS/2 technical reference, keyboard; scan code set 2): what it answers to the controller.
package struct PS2Keyboard: Equatable, Sendable {
  private static let acknowledge: UInt8 = 0xFA
  private static let resend: UInt8 = 0xFE
  private static let selfTestPassed: UInt8 = 0xAA
  /// Bytes kept for the controller; keys beyond are dropped, as the real buffer of 16 does.
  private static let capacity = 256

  private var output: [UInt8] = []
  private var pendingCommand: UInt8?
  private var isScanning = true
  private var scanCodeSet: UInt8 = 2
  /// Bit 0 scroll lock, 1 num lock, 2 caps lock.
  package private(set) var leds: UInt8 = 0
  private var lastByte: UInt8 = 0
  /// Control, Shift and Alt keys that the user holds.
  private var held: Set<UInt8> = []

  package init() {}

  package var hasOutput: Bool { !output.isEmpty }

  /// The next byte for the controller.
  package mutating func takeOutput() -> UInt8? {
    guard !output.isEmpty else { return nil }
    lastByte = output.removeFirst()
    return lastByte
  }

  /// A byte from the controller: a command or its argument.
  package mutating func write(_ value: UInt8) {
    if let command = pendingCommand {
      pendingCommand = nil
      writeArgument(of: command, value)
      return
    }
    switch value {
    case 0xED, 0xF0, 0xF3:
      pendingCommand = value
      send(PS2Keyboard.acknowledge)
    case 0xEE: send(0xEE)
    case 0xF2:
      send(PS2Keyboard.acknowledge)
      send(0xAB)
      send(0x83)
    case 0xF4:
      isScanning = true
      send(PS2Keyboard.acknowledge)
    case 0xF5:
      setDefaults()
      isScanning = false
      send(PS2Keyboard.acknowledge)
    case 0xF6:
      setDefaults()
      isScanning = true
      send(PS2Keyboard.acknowledge)
    case 0xF7...0xFA: send(PS2Keyboard.acknowledge)  // all keys typematic or make/break: set 3 only
    case 0xFE: output.insert(lastByte, at: 0)
    case 0xFF:
      setDefaults()
      isScanning = true
      send(PS2Keyboard.acknowledge)
      send(PS2Keyboard.selfTestPassed)
    default: send(PS2Keyboard.resend)
    }
  }

  /// Scan codes of set 2 from the user; false when the keyboard is off or full.
  package mutating func press(_ codes: [UInt8]) -> Bool {
    guard isScanning, output.count + codes.count <= PS2Keyboard.capacity else { return false }
    output += codes
    return true
  }

  /// The user pressed a key or let it go, named as in `PS2ScanCodes`; false when the keyboard is off, full, or has no such key.
  package mutating func key(_ key: UInt8, isDown: Bool) -> Bool {
    let codes = PS2ScanCodes.bytes(key, isDown: isDown, held: held, set: scanCodeSet)
    if PS2ScanCodes.modifiers.contains(key) {
      if isDown { held.insert(key) } else { held.remove(key) }
    }
    return !codes.isEmpty && press(codes)
  }

  private mutating func setDefaults() {
    output.removeAll(keepingCapacity: true)
    leds = 0
    scanCodeSet = 2
  }

  private mutating func writeArgument(of command: UInt8, _ value: UInt8) {
    switch command {
    case 0xED: leds = value & 7
    case 0xF0 where value == 0:
      send(PS2Keyboard.acknowledge)
      send(scanCodeSet)
      return
    case 0xF0 where (1...3).contains(value): scanCodeSet = value
    case 0xF0:
      send(PS2Keyboard.resend)
      return
    default: break  // typematic rate: keys here do not repeat by themselves
    }
    send(PS2Keyboard.acknowledge)
  }

  private mutating func send(_ byte: UInt8) {
    if output.count < PS2Keyboard.capacity { output.append(byte) }
  }

  // MARK: - Translation

  /// What the controller makes of scan code set 2 while translation to set 1 is on (8042 firmware's table); other bytes pass.
  package static let translation: [UInt8] = [
    0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59,
    0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B,
    0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F,
    0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61,
    0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F,
    0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54,
  ]
}
