import Host
import QAPI

/// What a user at the machine would do: keys, mouse, drives to boot from.
extension HMPCommandTable {
  static let inputCommands = [
    HMPCommand(
      "boot_set", "bootdevice:s", "bootdevice",
      help: "choose the drives that the firmware tries, by letters: a c d n"
    ) { session, arguments in
      let order = arguments.text("bootdevice") ?? ""
      if let complaint = session.machine.setBootOrder(order) {
        session.print(complaint + "\n")
      } else {
        session.print("boot device list now set to \(order)\n")
      }
    },
    HMPCommand(
      "mouse_move", "dx_str:s,dy_str:s,dz_str:s?", "dx dy [dz]",
      help: "move the mouse, and with 'dz' its wheel"
    ) { session, arguments in
      var events = [
        InputEvent.rel(
          InputMoveEvent(axis: .x, value: distance(arguments.text("dx_str") ?? ""))),
        .rel(InputMoveEvent(axis: .y, value: distance(arguments.text("dy_str") ?? ""))),
      ]
      let wheel = arguments.text("dz_str").map(distance) ?? 0
      if wheel != 0 {
        let button = wheel > 0 ? InputButton.wheelUp : .wheelDown
        events += [true, false].map { .btn(InputBtnEvent(button: button, down: $0)) }
      }
      send(session, events)
    },
    HMPCommand(
      "mouse_button", "button_state:i", "state",
      help: "hold mouse buttons: 1 is the left one, 2 the middle one, 4 the right one"
    ) { session, arguments in
      let state = arguments.integer("button_state") ?? 0
      send(
        session,
        [(1, InputButton.left), (2, .middle), (4, .right)].map { bit, button in
          .btn(InputBtnEvent(button: button, down: state & bit != 0))
        })
    },
    HMPCommand("mouse_set", "index:i", "index", help: "choose the mouse that gets the movements") {
      session, arguments throws(QAPIError) in
      let index = Int(arguments.integer("index") ?? 0)
      let mice = try session.commands.queryMice()
      if mice.contains(where: { $0.index == index }) { return }
      // The keyboard comes right before the mouse.
      if mice.contains(where: { $0.index == index + 1 }) {
        session.print("Input device 'QEMU PS/2 Keyboard' is not a mouse\n")
      } else {
        session.print("Mouse at index '\(index)' not found\n")
      }
    },
    HMPCommand(
      "sendkey", "keys:s,hold-time:i?", "keys [hold_ms]",
      help: "press keys together and let them go, such as 'sendkey ctrl-alt-f1'",
      completion: { _, request in
        guard request.position == 1 else { return [] }
        request.word = String(
          request.word.split(separator: "-", omittingEmptySubsequences: false).last ?? "")
        return QKeyCode.allCases.map(\.rawValue)
      }
    ) { session, arguments throws(QAPIError) in
      var keys: [KeyValue] = []
      let names = (arguments.text("keys") ?? "").split(
        separator: "-", omittingEmptySubsequences: false)
      for name in names {
        guard let key = key(name) else {
          session.print("invalid parameter: \(name)\n")
          return
        }
        keys.append(key)
      }
      try session.commands.sendKey(
        keys: keys, holdTime: arguments.integer("hold-time").map { Int($0) })
    },
  ]

  /// A key by its name or, in hexadecimal, its code of scan code set 1; nil when there is none.
  private static func key(_ name: Substring) -> KeyValue? {
    if name == "<" { return .qcode(.less) }
    guard name.hasPrefix("0x") else { return QKeyCode(rawValue: String(name)).map { .qcode($0) } }
    let digits = name.dropFirst(2)
    guard !digits.isEmpty, digits.allSatisfy(\.isHexDigit) else { return nil }
    return .number(Int(truncatingIfNeeded: UInt64(digits, radix: 16) ?? .max))
  }

  /// Sends events; a guest that does not run or has no mouse gets none, and the user no message.
  @MainLoop
  private static func send(_ session: HMPSession, _ events: [InputEvent]) {
    try? session.commands.inputSendEvent(device: nil, head: nil, events: events)
  }

  /// A number as C's `strtol` with base 0 reads it: what is no number is 0.
  private static func distance(_ text: String) -> Int {
    var digits = text.drop { $0.isWhitespace }
    let isNegative = digits.first == "-"
    if isNegative || digits.first == "+" { digits = digits.dropFirst() }
    var radix = 10
    if digits.hasPrefix("0x") || digits.hasPrefix("0X") {
      digits = digits.dropFirst(2)
      radix = 16
    } else if digits.first == "0" {
      radix = 8
    }
    let number = digits.prefix { $0.isASCII && ($0.hexDigitValue ?? 16) < radix }
    let value = Int(number, radix: radix) ?? (number.isEmpty ? 0 : Int.max)
    return isNegative ? 0 &- value : value
  }
}
