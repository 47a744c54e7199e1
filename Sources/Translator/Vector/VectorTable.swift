// The MMX, SSE, AVX, AES, SHA, FMA and F16C instructions as a table: which registers an encoding names, how large its memory
// operand is, what else it reads and writes (Intel SDM vol. 2, appendix A and the instructions' pages).

/// What the engine must know of one encoding; a packed word.
struct VectorForm {
  var bits: UInt32

  enum Operand: UInt32 { case none = 0, vector = 1, general = 2, mmx = 3 }
  /// Sizes of memory operands; `full`, `half`… are parts of the vector length.
  enum Size: UInt32 {
    case none, byte, word, dword, qword, oword, full, half, quarter, eighth, dwordOrQword, duplicate
  }
  enum Flag: UInt32 {
    /// The operand in ModRM.rm is the destination.
    case store = 8
    /// Aligned memory in the legacy encoding; in the VEX encoding too.
    case aligned = 9
    case alignedVEX = 10
    /// Reads rounding and writes exception flags of MXCSR.
    case floating = 11
    case writesFlags = 12
    case memoryOnly = 13
    case registerOnly = 14
    /// ModRM.reg extends the opcode; with VEX the destination is VEX.vvvv.
    case shiftGroup = 15
    case immediate = 16
    case implicitXMM0 = 17
    /// A fourth register in the immediate's high half.
    case fourthRegister = 18
    /// EAX and EDX are lengths.
    case explicitLengths = 19
    case resultXMM0 = 20
    case resultECX = 21
    /// With 256-bit vectors the VEX form belongs to AVX2.
    case wideIsAVX2 = 22
    case valid = 31
  }

  @inline(__always) var reg: Operand { Operand(rawValue: bits & 3) ?? .none }
  @inline(__always) var rm: Operand { Operand(rawValue: bits >> 2 & 3) ?? .none }
  @inline(__always) var size: Size { Size(rawValue: bits >> 4 & 15) ?? .none }
  @inline(__always) subscript(flag: Flag) -> Bool { bits >> flag.rawValue & 1 != 0 }
  /// Number of the guest's feature bit.
  @inline(__always) var feature: UInt32 { bits >> 24 & 31 }
  @inline(__always) var usesMMX: Bool { reg == .mmx || rm == .mmx }

  /// Bytes of the memory operand.
  func bytes(vectorLength: UInt16, wide: Bool) -> UInt16 {
    switch size {
    case .none: 0
    case .byte: 1
    case .word: 2
    case .dword: 4
    case .qword: 8
    case .oword: 16
    case .full: vectorLength
    case .half: vectorLength / 2
    case .quarter: vectorLength / 4
    case .eighth: vectorLength / 8
    case .dwordOrQword: wide ? 8 : 4
    case .duplicate: vectorLength == 32 ? 32 : 8
    }
  }
}

/// Lookup by opcode map, opcode and mandatory prefix, for legacy and VEX encodings.
@safe struct VectorTable: Sendable {
  // SAFETY (whole file): `count` words, written in init only and never freed; indices are masked or checked to be below that.
  /// Index: VEX 1024 * 3, map - 1, opcode, prefix.
  nonisolated(unsafe) private let forms: UnsafeMutablePointer<UInt32>
  private static let count = 6144

  static let shared = VectorTable()

  /// Nil: no such instruction (or not one of the table's).
  @inline(__always)
  func form(vex: Bool, map: UInt8, opcode: UInt8, prefix: UInt8) -> VectorForm? {
    guard map >= 1, map <= 3, prefix < 4 else { return nil }
    let bits = unsafe forms[Self.index(vex: vex, map: map, opcode: opcode, prefix: prefix)]
    return bits >> VectorForm.Flag.valid.rawValue == 0 ? nil : VectorForm(bits: bits)
  }

  @inline(__always) private static func index(vex: Bool, map: UInt8, opcode: UInt8, prefix: UInt8)
    -> Int
  {
    (vex ? 3072 : 0) &+ Int(map &- 1) &* 1024 &+ Int(opcode) &* 4 &+ Int(prefix)
  }

  private init() {
    unsafe forms = UnsafeMutablePointer<UInt32>.allocate(capacity: Self.count)
    unsafe forms.initialize(repeating: 0, count: Self.count)
    var map: UInt8 = 1
    for line in Self.rows.split(separator: "\n") {
      let fields = line.split(separator: " ").map(String.init)
      if fields.count == 2, let number = UInt8(fields[1]) {
        map = number
      } else if fields.count == 7 {
        add(map: map, fields)
      }
    }
  }

  /// Opcodes, prefixes (0 none, 1 66, 2 F3, 3 F2), reg and rm operands, memory size, flags, feature of the legacy form,
  /// feature of the VEX form.
  private func add(map: UInt8, _ fields: [String]) {
    var bits: UInt32 = 1 << VectorForm.Flag.valid.rawValue
    let operands: [Character: UInt32] = ["-": 0, "V": 1, "G": 2, "P": 3]
    let letters = Array(fields[2])
    bits |= (operands[letters[0]] ?? 0) | (operands[letters[1]] ?? 0) << 2
    let sizes: [String: VectorForm.Size] = [
      "b": .byte, "w": .word, "d": .dword, "q": .qword, "o": .oword, "x": .full, "h": .half,
      "f": .quarter, "e": .eighth, "y": .dwordOrQword, "D": .duplicate,
    ]
    bits |= (sizes[fields[3]] ?? .none).rawValue << 4
    let flags: [Character: VectorForm.Flag] = [
      "s": .store, "a": .aligned, "A": .alignedVEX, "f": .floating, "z": .writesFlags,
      "m": .memoryOnly, "u": .registerOnly, "n": .shiftGroup, "i": .immediate, "X": .implicitXMM0,
      "4": .fourthRegister, "E": .explicitLengths, "Y": .resultXMM0, "C": .resultECX,
    ]
    for letter in fields[4] {
      if let flag = flags[letter] { bits |= 1 << flag.rawValue }
    }
    if bits >> VectorForm.Flag.alignedVEX.rawValue & 1 != 0 {
      bits |= 1 << VectorForm.Flag.aligned.rawValue
    }
    if map == 3 { bits |= 1 << VectorForm.Flag.immediate.rawValue }
    for opcode in Self.opcodes(fields[0]) {
      for prefix in fields[1].compactMap(\.wholeNumberValue).map({ UInt8($0) }) {
        if let legacy = Self.feature(fields[5], prefix) {
          unsafe forms[Self.index(vex: false, map: map, opcode: opcode, prefix: prefix)] =
            bits | legacy << 24
        }
        if let vex = Self.feature(fields[6], prefix) {
          let wide: UInt32 =
            fields[6] == "avxi" ? 1 << VectorForm.Flag.wideIsAVX2.rawValue : 0
          unsafe forms[Self.index(vex: true, map: map, opcode: opcode, prefix: prefix)] =
            bits | vex << 24 | wide
        }
      }
    }
  }

  /// `58,5C-5F` in hexadecimal.
  private static func opcodes(_ text: String) -> [UInt8] {
    text.split(separator: ",").flatMap { part -> [UInt8] in
      let ends = part.split(separator: "-").compactMap { UInt8($0, radix: 16) }
      guard let first = ends.first, let last = ends.last, first <= last else { return [] }
      return Array(first...last)
    }
  }

  private static func feature(_ name: String, _ prefix: UInt8) -> UInt32? {
    switch name {
    case "sse*": prefix & 1 == 0 ? GuestFeature.sse : GuestFeature.sse2
    case "mmx": GuestFeature.mmx
    case "sse": GuestFeature.sse
    case "sse2": GuestFeature.sse2
    case "sse3": GuestFeature.sse3
    case "ssse3": GuestFeature.ssse3
    case "sse41": GuestFeature.sse41
    case "sse42": GuestFeature.sse42
    case "aes": GuestFeature.aes
    case "pcl": GuestFeature.pclmul
    case "sha": GuestFeature.sha
    case "avx", "avxi": GuestFeature.avx
    case "avx2": GuestFeature.avx2
    case "fma": GuestFeature.fma
    case "f16c": GuestFeature.f16c
    default: nil
    }
  }

  // Columns: see `add`. `avxi`: 256-bit vectors need AVX2.
  private static let rows = """
    map 1
    10 01 VV x - sse* avx
    11 01 VV x s sse* avx
    10 2 VV d - sse avx
    11 2 VV d s sse avx
    10 3 VV q - sse2 avx
    11 3 VV q s sse2 avx
    12 0 VV q - sse avx
    12 1 VV q m sse2 avx
    12 2 VV x a sse3 avx
    12 3 VV D - sse3 avx
    13,17 01 VV q sm sse* avx
    14,15 01 VV x a sse* avx
    16 0 VV q - sse avx
    16 1 VV q m sse2 avx
    16 2 VV x a sse3 avx
    28 01 VV x A sse* avx
    29 01 VV x As sse* avx
    2A 01 VP q f sse* -
    2A 23 VG y f sse* avx
    2B 01 VV x Asm sse* avx
    2C,2D 0 PV q f sse -
    2C,2D 1 PV x af sse2 -
    2C,2D 2 GV d f sse avx
    2C,2D 3 GV q f sse2 avx
    2E,2F 0 VV d fz sse avx
    2E,2F 1 VV q fz sse2 avx
    50 01 GV - u sse* avx
    51,58,59,5C-5F 01 VV x af sse* avx
    51,58,59,5C-5F 2 VV d f sse avx
    51,58,59,5C-5F 3 VV q f sse2 avx
    52,53 0 VV x a sse avx
    52,53 2 VV d - sse avx
    54-57 01 VV x a sse* avx
    5A 0 VV h f sse2 avx
    5A 1 VV x af sse2 avx
    5A 2 VV d f sse2 avx
    5A 3 VV q f sse2 avx
    5B 012 VV x af sse2 avx
    60-62 0 PP d - mmx -
    63-6B 0 PP q - mmx -
    60-6D 1 VV x a sse2 avxi
    6E 0 PG y - mmx -
    6E 1 VG y - sse2 avx
    6F 0 PP q - mmx -
    6F 1 VV x A sse2 avx
    6F 2 VV x - sse2 avx
    70 0 PP q i sse -
    70 123 VV x ai sse2 avxi
    71-73 0 -P - uni mmx -
    71-73 1 -V - uni sse2 avxi
    74-76 0 PP q - mmx -
    74-76 1 VV x a sse2 avxi
    77 0 -- - - mmx -
    7C,7D 13 VV x af sse3 avx
    7E 0 PG y s mmx -
    7E 1 VG y s sse2 avx
    7E 2 VV q - sse2 avx
    7F 0 PP q s mmx -
    7F 1 VV x As sse2 avx
    7F 2 VV x s sse2 avx
    C2 01 VV x afi sse* avx
    C2 2 VV d fi sse avx
    C2 3 VV q fi sse2 avx
    C4 0 PG w i sse -
    C4 1 VG w i sse2 avx
    C5 0 GP - ui sse -
    C5 1 GV - ui sse2 avx
    C6 01 VV x ai sse* avx
    D0 13 VV x af sse3 avx
    D1-D3,E1,E2,F1-F3 0 PP q - mmx -
    D1-D3,E1,E2,F1-F3 1 VV o a sse2 avxi
    D4,F4,FB 0 PP q - sse2 -
    DA,DE,E0,E3,E4,EA,EE,F6 0 PP q - sse -
    D5,D8,D9,DB-DD,DF,E5,E8,E9,EB-ED,EF,F5,F8-FA,FC-FE 0 PP q - mmx -
    D4,D5,D8-DF,E0,E3-E5,E8-EF,F4-F6,F8-FE 1 VV x a sse2 avxi
    D6 1 VV q s sse2 avx
    D6 2 VP - u sse2 -
    D6 3 PV - u sse2 -
    D7 0 GP - u sse -
    D7 1 GV - u sse2 avxi
    E6 13 VV x af sse2 avx
    E6 2 VV h f sse2 avx
    E7 0 PP q sm sse -
    E7 1 VV x Asm sse2 avx
    F0 3 VV x m sse3 avx
    map 2
    00-0B 0 PP q - ssse3 -
    00-0B 1 VV x a ssse3 avxi
    0C,0D 1 VV x - - avx
    0E,0F 1 VV x z - avx
    10,14,15 1 VV x aX sse41 -
    13 1 VV h f - f16c
    16,36 1 VV x - - avx2
    17 1 VV x az sse41 avx
    18 1 VV d - - avx
    19 1 VV q - - avx
    1A 1 VV o m - avx
    1C-1E 0 PP q - ssse3 -
    1C-1E 1 VV x a ssse3 avxi
    20,23,25,30,33,35 1 VV h - sse41 avxi
    21,24,31,34 1 VV f - sse41 avxi
    22,32 1 VV e - sse41 avxi
    28,29,2B 1 VV x a sse41 avxi
    2A 1 VV x Am sse41 avxi
    37 1 VV x a sse42 avxi
    38-40 1 VV x a sse41 avxi
    41 1 VV x a sse41 avx
    45-47 1 VV x - - avx2
    58 1 VV d - - avx2
    59 1 VV q - - avx2
    78 1 VV b - - avx2
    79 1 VV w - - avx2
    5A 1 VV o m - avx2
    96-98,9A,9C,9E,A6-A8,AA,AC,AE,B6-B8,BA,BC,BE 1 VV x f - fma
    99,9B,9D,9F,A9,AB,AD,AF,B9,BB,BD,BF 1 VV y f - fma
    C8-CA,CC,CD 0 VV x - sha -
    CB 0 VV x X sha -
    DB-DF 1 VV x a aes aes
    map 3
    00-02 1 VV x - - avx2
    04-06 1 VV x - - avx
    08,09 1 VV x af sse41 avx
    0A 1 VV d f sse41 avx
    0B 1 VV q f sse41 avx
    0C,0D 1 VV x a sse41 avx
    0E 1 VV x a sse41 avxi
    0F 0 PP q - ssse3 -
    0F 1 VV x a ssse3 avxi
    14 1 VG b s sse41 avx
    15 1 VG w s sse41 avx
    16 1 VG y s sse41 avx
    17 1 VG d s sse41 avx
    18 1 VV o - - avx
    19 1 VV o s - avx
    1D 1 VV h sf - f16c
    20 1 VG b - sse41 avx
    21 1 VV d - sse41 avx
    22 1 VG y - sse41 avx
    38 1 VV o - - avx2
    39 1 VV o s - avx2
    40,41 1 VV x af sse41 avx
    42 1 VV x a sse41 avxi
    44 1 VV x a pcl pcl
    46 1 VV x - - avx2
    4A,4B 1 VV x 4 - avx
    4C 1 VV x 4 - avxi
    60 1 VV x zEY sse42 avx
    61 1 VV x zEC sse42 avx
    62 1 VV x zY sse42 avx
    63 1 VV x zC sse42 avx
    CC 0 VV x - sha -
    DF 1 VV x a aes aes
    """
}

/// Numbers of the feature bits in `X86State.features`, as CX86Vector.h defines them.
enum GuestFeature {
  static let fpu: UInt32 = 0
  static let mmx: UInt32 = 1
  static let sse: UInt32 = 2
  static let sse2: UInt32 = 3
  static let sse3: UInt32 = 4
  static let ssse3: UInt32 = 5
  static let sse41: UInt32 = 6
  static let sse42: UInt32 = 7
  static let aes: UInt32 = 8
  static let pclmul: UInt32 = 9
  static let sha: UInt32 = 10
  static let avx: UInt32 = 11
  static let avx2: UInt32 = 12
  static let fma: UInt32 = 13
  static let f16c: UInt32 = 14
  static let fxsr: UInt32 = 15
  static let xsave: UInt32 = 16
  static let xsaveopt: UInt32 = 17
  static let xsavec: UInt32 = 18
}
