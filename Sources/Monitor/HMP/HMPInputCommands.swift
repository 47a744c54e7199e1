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
      let wheel = arguments.text("dz_str").map(distance) ?? 0
      session.machine.moveMouse(
        x: distance(arguments.text("dx_str") ?? ""), y: distance(arguments.text("dy_str") ?? ""),
        wheel: wheel.signum())
    },
    HMPCommand(
      "mouse_button", "button_state:i", "state",
      help: "hold mouse buttons: 1 is the left one, 2 the middle one, 4 the right one"
    ) { session, arguments in
      let state = UInt8(truncatingIfNeeded: arguments.integer("button_state") ?? 0)
      session.machine.holdMouseButtons(state & 1 | state >> 1 & 2 | state << 1 & 4)
    },
  ]

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
