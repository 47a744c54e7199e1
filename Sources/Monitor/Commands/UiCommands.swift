import Host
import Machine
package import QAPI

// schemas/ui.json

extension MonitorCommands: @MainLoop UiCommands {
  package func queryMice() throws(QAPIError) -> [MouseInfo] {
    guard try context.machine.keyboardController != nil else { return [] }
    // The keyboard has the number before.
    return [MouseInfo(name: "QEMU PS/2 Mouse", index: 2, current: true, absolute: false)]
  }

  package func sendKey(keys: [KeyValue], holdTime: Int?) throws(QAPIError) {
    let machine = try context.machine
    // Without a time, or with one that makes no sense, a tenth of a second, as QEMU does it.
    let time = holdTime.flatMap { $0 > 0 ? $0 : nil } ?? 100
    context.input.press(keys.compactMap(\.number), holdTime: time, on: machine)
  }

  package func inputSendEvent(
    device: String?, head: Int?, events: [InputEvent]
  ) throws(QAPIError) {
    let machine = try context.machine
    // There are no displays.
    if let device { throw QAPIError(.deviceNotFound, "Device '\(device)' not found") }
    guard machine.isRunning else { throw QAPIError("VM not running") }
    let hasInput = machine.keyboardController != nil
    for event in events where event.kind == .abs || !hasInput {
      throw QAPIError("Input handler not found for event type \(event.kind.rawValue)")
    }
    var (x, y, wheel) = (0, 0, 0)
    var concernsMouse = false
    for event in events {
      switch event {
      case .key(let key):
        if let number = key.key.number {
          context.input.send(number, isDown: key.down, to: machine)
        }
      case .rel(let move):
        concernsMouse = true
        if move.axis == .x { x = x &+ move.value } else { y = y &+ move.value }
      case .btn(let button):
        concernsMouse = true
        switch button.button {
        case .left: context.input.button(1, isDown: button.down)
        case .right: context.input.button(2, isDown: button.down)
        case .middle: context.input.button(4, isDown: button.down)
        case .wheelUp: wheel = wheel &- (button.down ? 1 : 0)
        case .wheelDown: wheel = wheel &+ (button.down ? 1 : 0)
        case .side, .extra, .wheelLeft, .wheelRight: break
        }
      case .abs: break
      }
    }
    if concernsMouse { context.input.moveMouse(x: x, y: y, wheel: wheel, on: machine) }
  }
}

extension KeyValue {
  /// The key's code in scan code set 1, with bit 7 for those that have the prefix 0xE0; nil for none.
  var number: UInt8? {
    switch self {
    case .number(let code): code > 0 ? UInt8(exactly: code) : nil
    case .qcode(let name): KeyNames.numbers[name.rawValue]
    }
  }
}

/// Keys by QEMU's names.
enum KeyNames {
  static let numbers: [String: UInt8] = {
    var table: [String: UInt8] = [:]
    for entry in list.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
      let parts = entry.split(separator: ":")
      if parts.count == 2, let code = UInt8(parts[1], radix: 16) {
        table[String(parts[0])] = code
      }
    }
    return table
  }()

  private static let list = """
    esc:01 1:02 2:03 3:04 4:05 5:06 6:07 7:08 8:09 9:0a 0:0b minus:0c equal:0d backspace:0e tab:0f
    q:10 w:11 e:12 r:13 t:14 y:15 u:16 i:17 o:18 p:19 bracket_left:1a bracket_right:1b ret:1c
    ctrl:1d a:1e s:1f d:20 f:21 g:22 h:23 j:24 k:25 l:26 semicolon:27 apostrophe:28 grave_accent:29
    shift:2a backslash:2b z:2c x:2d c:2e v:2f b:30 n:31 m:32 comma:33 dot:34 slash:35 shift_r:36
    asterisk:37 kp_multiply:37 alt:38 spc:39 caps_lock:3a f1:3b f2:3c f3:3d f4:3e f5:3f f6:40 f7:41
    f8:42 f9:43 f10:44 num_lock:45 scroll_lock:46 kp_7:47 kp_8:48 kp_9:49 kp_subtract:4a kp_4:4b
    kp_5:4c kp_6:4d kp_add:4e kp_1:4f kp_2:50 kp_3:51 kp_0:52 kp_decimal:53 sysrq:54 less:56 f11:57
    f12:58 kp_equals:59 lf:5b open:64 paste:65 katakanahiragana:70 lang2:71 lang1:72 ro:73
    hiragana:77 henkan:79 muhenkan:7b yen:7d kp_comma:7e again:85 props:86 undo:87 front:8c
    audioprev:90 audionext:99 kp_enter:9c ctrl_r:9d menu:9e audiomute:a0 calculator:a1 audioplay:a2
    audiostop:a4 volumedown:ae volumeup:b0 ac_home:b2 kp_divide:b5 print:b7 alt_r:b8 cut:bc find:c1
    pause:c6 home:c7 up:c8 pgup:c9 left:cb right:cd end:cf down:d0 pgdn:d1 insert:d2 delete:d3
    meta_l:db meta_r:dc compose:dd power:de sleep:df wake:e3 ac_bookmarks:e6 ac_refresh:e7 stop:e8
    ac_forward:e9 ac_back:ea computer:eb mail:ec mediaselect:ed help:f5 copy:f8
    """
}
