import Devices
import Testing

@Suite struct PS2ScanCodeTests {
  /// What a keyboard sends for a key and its release, in sets 1, 2 and 3; recorded from QEMU 7.2's keyboard.
  private static let recorded = """
    01: 01 81; 76 f0 76; 08 f0 08
    02: 02 82; 16 f0 16; 16 f0 16
    03: 03 83; 1e f0 1e; 1e f0 1e
    04: 04 84; 26 f0 26; 26 f0 26
    05: 05 85; 25 f0 25; 25 f0 25
    06: 06 86; 2e f0 2e; 2e f0 2e
    07: 07 87; 36 f0 36; 36 f0 36
    08: 08 88; 3d f0 3d; 3d f0 3d
    09: 09 89; 3e f0 3e; 3e f0 3e
    0a: 0a 8a; 46 f0 46; 46 f0 46
    0b: 0b 8b; 45 f0 45; 45 f0 45
    0c: 0c 8c; 4e f0 4e; 4e f0 4e
    0d: 0d 8d; 55 f0 55; 55 f0 55
    0e: 0e 8e; 66 f0 66; 66 f0 66
    0f: 0f 8f; 0d f0 0d; 0d f0 0d
    10: 10 90; 15 f0 15; 15 f0 15
    11: 11 91; 1d f0 1d; 1d f0 1d
    12: 12 92; 24 f0 24; 24 f0 24
    13: 13 93; 2d f0 2d; 2d f0 2d
    14: 14 94; 2c f0 2c; 2c f0 2c
    15: 15 95; 35 f0 35; 35 f0 35
    16: 16 96; 3c f0 3c; 3c f0 3c
    17: 17 97; 43 f0 43; 43 f0 43
    18: 18 98; 44 f0 44; 44 f0 44
    19: 19 99; 4d f0 4d; 4d f0 4d
    1a: 1a 9a; 54 f0 54; 54 f0 54
    1b: 1b 9b; 5b f0 5b; 5b f0 5b
    1c: 1c 9c; 5a f0 5a; 5a f0 5a
    1d: 1d 9d; 14 f0 14; 11 f0 11
    1e: 1e 9e; 1c f0 1c; 1c f0 1c
    1f: 1f 9f; 1b f0 1b; 1b f0 1b
    20: 20 a0; 23 f0 23; 23 f0 23
    21: 21 a1; 2b f0 2b; 2b f0 2b
    22: 22 a2; 34 f0 34; 34 f0 34
    23: 23 a3; 33 f0 33; 33 f0 33
    24: 24 a4; 3b f0 3b; 3b f0 3b
    25: 25 a5; 42 f0 42; 42 f0 42
    26: 26 a6; 4b f0 4b; 4b f0 4b
    27: 27 a7; 4c f0 4c; 4c f0 4c
    28: 28 a8; 52 f0 52; 52 f0 52
    29: 29 a9; 0e f0 0e; 0e f0 0e
    2a: 2a aa; 12 f0 12; 12 f0 12
    2b: 2b ab; 5d f0 5d; 5c f0 5c
    2c: 2c ac; 1a f0 1a; 1a f0 1a
    2d: 2d ad; 22 f0 22; 22 f0 22
    2e: 2e ae; 21 f0 21; 21 f0 21
    2f: 2f af; 2a f0 2a; 2a f0 2a
    30: 30 b0; 32 f0 32; 32 f0 32
    31: 31 b1; 31 f0 31; 31 f0 31
    32: 32 b2; 3a f0 3a; 3a f0 3a
    33: 33 b3; 41 f0 41; 41 f0 41
    34: 34 b4; 49 f0 49; 49 f0 49
    35: 35 b5; 4a f0 4a; 4a f0 4a
    36: 36 b6; 59 f0 59; 59 f0 59
    37: 37 b7; 7c f0 7c; 7e f0 7e
    38: 38 b8; 11 f0 11; 19 f0 19
    39: 39 b9; 29 f0 29; 29 f0 29
    3a: 3a ba; 58 f0 58; 14 f0 14
    3b: 3b bb; 05 f0 05; 07 f0 07
    3c: 3c bc; 06 f0 06; 0f f0 0f
    3d: 3d bd; 04 f0 04; 17 f0 17
    3e: 3e be; 0c f0 0c; 1f f0 1f
    3f: 3f bf; 03 f0 03; 27 f0 27
    40: 40 c0; 0b f0 0b; 2f f0 2f
    41: 41 c1; 83 f0 83; 37 f0 37
    42: 42 c2; 0a f0 0a; 3f f0 3f
    43: 43 c3; 01 f0 01; 47 f0 47
    44: 44 c4; 09 f0 09; 4f f0 4f
    45: 45 c5; 77 f0 77; 76 f0 76
    46: 46 c6; 7e f0 7e; 5f f0 5f
    47: 47 c7; 6c f0 6c; 6c f0 6c
    48: 48 c8; 75 f0 75; 75 f0 75
    49: 49 c9; 7d f0 7d; 7d f0 7d
    4a: 4a ca; 7b f0 7b; 4e f0 4e
    4b: 4b cb; 6b f0 6b; 6b f0 6b
    4c: 4c cc; 73 f0 73; 73 f0 73
    4d: 4d cd; 74 f0 74; 74 f0 74
    4e: 4e ce; 79 f0 79; 7c f0 7c
    4f: 4f cf; 69 f0 69; 69 f0 69
    50: 50 d0; 72 f0 72; 72 f0 72
    51: 51 d1; 7a f0 7a; 7a f0 7a
    52: 52 d2; 70 f0 70; 70 f0 70
    53: 53 d3; 71 f0 71; 71 f0 71
    54: e0 2a e0 37 e0 b7 e0 aa; e0 12 e0 7c e0 f0 7c e0 f0 12; 57 f0 57
    56: 56 d6; 61 f0 61; 13 f0 13
    57: 57 d7; 78 f0 78; 56 f0 56
    58: 58 d8; 07 f0 07; 5e f0 5e
    59: 59 d9; 0f f0 0f; 
    5b: 5b db; ; 
    64: 64 e4; ; 20 f0 20
    65: 65 e5; ; 28 f0 28
    70: 70 f0; 13 f0 13; 87 f0 87
    71: 71 f1; ; 
    72: 72 f2; ; 
    73: 73 f3; 51 f0 51; 
    77: 77 f7; 62 f0 62; 87 f0 87
    79: 79 f9; 64 f0 64; 86 f0 86
    7b: 7b fb; 67 f0 67; 85 f0 85
    7d: 7d fd; 6a f0 6a; 5d f0 5d
    7e: 7e fe; 6d f0 6d; 
    85: e0 05 e0 85; ; 0b f0 0b
    86: e0 06 e0 86; ; 0c f0 0c
    87: e0 07 e0 87; ; 10 f0 10
    8c: e0 0c e0 8c; ; 
    90: e0 10 e0 90; e0 15 e0 f0 15; 94 f0 94
    99: e0 19 e0 99; e0 4d e0 f0 4d; 93 f0 93
    9c: e0 1c e0 9c; e0 5a e0 f0 5a; 79 f0 79
    9d: e0 1d e0 9d; e0 14 e0 f0 14; 58 f0 58
    9e: e0 1e e0 9e; ; 91 f0 91
    a0: e0 20 e0 a0; e0 23 e0 f0 23; 9c f0 9c
    a1: e0 21 e0 a1; e0 2b e0 f0 2b; a3 f0 a3
    a2: e0 22 e0 a2; e0 34 e0 f0 34; 
    a4: e0 24 e0 a4; e0 3b e0 f0 3b; 98 f0 98
    ae: e0 2e e0 ae; e0 21 e0 f0 21; 9d f0 9d
    b0: e0 30 e0 b0; e0 32 e0 f0 32; 95 f0 95
    b2: e0 32 e0 b2; e0 3a e0 f0 3a; 97 f0 97
    b5: e0 35 e0 b5; e0 4a e0 f0 4a; 4a f0 4a
    b7: e0 2a e0 37 e0 b7 e0 aa; e0 12 e0 7c e0 f0 7c e0 f0 12; 57 f0 57
    b8: e0 38 e0 b8; e0 11 e0 f0 11; 39 f0 39
    bc: e0 3c e0 bc; ; 38 f0 38
    c1: e0 41 e0 c1; ; 30 f0 30
    c6: e1 1d 45 e1 9d c5; e1 14 77 e1 f0 14 f0 77; 62 f0 62
    c7: e0 47 e0 c7; e0 6c e0 f0 6c; 6e f0 6e
    c8: e0 48 e0 c8; e0 75 e0 f0 75; 63 f0 63
    c9: e0 49 e0 c9; e0 7d e0 f0 7d; 6f f0 6f
    cb: e0 4b e0 cb; e0 6b e0 f0 6b; 61 f0 61
    cd: e0 4d e0 cd; e0 74 e0 f0 74; 6a f0 6a
    cf: e0 4f e0 cf; e0 69 e0 f0 69; 65 f0 65
    d0: e0 50 e0 d0; e0 72 e0 f0 72; 60 f0 60
    d1: e0 51 e0 d1; e0 7a e0 f0 7a; 6d f0 6d
    d2: e0 52 e0 d2; e0 70 e0 f0 70; 67 f0 67
    d3: e0 53 e0 d3; e0 71 e0 f0 71; 64 f0 64
    db: e0 5b e0 db; e0 1f e0 f0 1f; 8b f0 8b
    dc: e0 5c e0 dc; e0 27 e0 f0 27; 8c f0 8c
    dd: e0 5d e0 dd; e0 2f e0 f0 2f; 8d f0 8d
    de: e0 5e e0 de; e0 37 e0 f0 37; 
    df: e0 5f e0 df; e0 3f e0 f0 3f; 
    e3: e0 63 e0 e3; e0 5e e0 f0 5e; 
    e6: e0 66 e0 e6; e0 18 e0 f0 18; 
    e7: e0 67 e0 e7; e0 20 e0 f0 20; 
    e8: e0 68 e0 e8; e0 28 e0 f0 28; 0a f0 0a
    e9: e0 69 e0 e9; e0 30 e0 f0 30; 
    ea: e0 6a e0 ea; e0 38 e0 f0 38; 
    eb: e0 6b e0 eb; e0 40 e0 f0 40; 
    ec: e0 6c e0 ec; e0 48 e0 f0 48; 
    ed: e0 6d e0 ed; e0 50 e0 f0 50; 
    f5: e0 75 e0 f5; ; 09 f0 09
    f8: e0 78 e0 f8; ; 18 f0 18
    """

  private static func bytes(_ text: Substring) -> [UInt8] {
    text.split(separator: " ").compactMap { UInt8($0, radix: 16) }
  }

  private static func output(of keyboard: inout PS2Keyboard) -> [UInt8] {
    var bytes: [UInt8] = []
    while let byte = keyboard.takeOutput() { bytes.append(byte) }
    return bytes
  }

  /// A keyboard that was told to use a scan code set.
  private static func keyboard(set: UInt8) -> PS2Keyboard {
    var keyboard = PS2Keyboard()
    keyboard.write(0xF0)
    keyboard.write(set)
    _ = output(of: &keyboard)
    return keyboard
  }

  @Test func everyKeySendsItsCodes() throws {
    for line in Self.recorded.split(separator: "\n") {
      let parts = line.split(separator: ":")
      let key = try #require(UInt8(parts[0].filter { $0 != " " }, radix: 16))
      let sets = parts[1].split(separator: ";", omittingEmptySubsequences: false)
      #expect(sets.count == 3)
      for (number, expected) in zip([1, 2, 3] as [UInt8], sets) {
        var keyboard = Self.keyboard(set: number)
        _ = keyboard.key(key, isDown: true)
        _ = keyboard.key(key, isDown: false)
        #expect(Self.output(of: &keyboard) == Self.bytes(expected), "\(line), set \(number)")
      }
    }
  }

  @Test(arguments: [
    ([0x1D, 0xB7], "1d e0 37 e0 b7 9d"), ([0x38, 0xB7], "38 b8 38 54 d4 b8 38 b8"),
    ([0x2A, 0xB7], "2a e0 37 e0 b7 aa"), ([0x1D, 0xC6], "1d e0 46 e0 c6 9d"),
    ([0x1D, 0x54], "1d e0 37 e0 b7 9d"),
    ([0xB8, 0xB7], "e0 38 e0 b8 e0 38 54 d4 e0 b8 e0 38 e0 b8"),
  ])
  func modifiersChangeWhatSpecialKeysSend(keys: [UInt8], expected: String) {
    var keyboard = Self.keyboard(set: 1)
    for key in keys { _ = keyboard.key(key, isDown: true) }
    for key in keys.reversed() { _ = keyboard.key(key, isDown: false) }
    #expect(Self.output(of: &keyboard) == Self.bytes(expected[...]))
  }

  @Test func aFullKeyboardDropsKeysWhole() {
    var keyboard = Self.keyboard(set: 2)
    var taken = 0
    while keyboard.key(0xB7, isDown: true) { taken += 1 }
    #expect(taken == 64)
    #expect(Self.output(of: &keyboard).count == taken * 4)
  }
}
