import CX86

/// The opcode maps: what follows each opcode (Intel SDM vol. 2D, appendix A).
extension Decoder {
  static func oneByteForm(_ opcode: UInt8) -> InstructionForm {
    switch opcode {
    case 0x00...0x3F:
      switch opcode & 7 {
      case 0, 2: return [.modRM, .byte]
      case 1, 3: return .modRM
      case 4: return [.imm8, .byte]
      case 5: return .immZ
      default: return .invalid64
      }
    case 0x40...0x4F: return .invalid64
    case 0x50...0x5F: return .default64
    case 0x60, 0x61: return .invalid64
    case 0x62: return [.modRM, .invalid64]
    case 0x63: return .modRM
    case 0x68: return [.immZ, .default64]
    case 0x69: return [.modRM, .immZ]
    case 0x6A: return [.imm8, .default64]
    case 0x6B: return [.modRM, .imm8]
    case 0x6C, 0x6E: return .byte
    case 0x6D, 0x6F: return []
    case 0x70...0x7F: return .jump8
    case 0x80: return [.modRM, .imm8, .byte]
    case 0x82: return [.modRM, .imm8, .byte, .invalid64]
    case 0x81: return [.modRM, .immZ]
    case 0x83: return [.modRM, .imm8]
    case 0x84, 0x86, 0x88, 0x8A: return [.modRM, .byte]
    case 0x85, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E: return .modRM
    case 0x8F: return [.modRM, .default64]
    case 0x90...0x99: return []
    case 0x9A: return [.farPointer, .invalid64]
    case 0x9B: return []
    case 0x9C, 0x9D: return .default64
    case 0x9E, 0x9F: return []
    case 0xA0, 0xA2: return [.memoryOffset, .byte]
    case 0xA1, 0xA3: return .memoryOffset
    case 0xA4, 0xA6, 0xAA, 0xAC, 0xAE: return .byte
    case 0xA5, 0xA7, 0xAB, 0xAD, 0xAF: return []
    case 0xA8: return [.imm8, .byte]
    case 0xA9: return .immZ
    case 0xB0...0xB7: return [.imm8, .byte]
    case 0xB8...0xBF: return .immV
    case 0xC0: return [.modRM, .imm8, .byte]
    case 0xC1: return [.modRM, .imm8]
    case 0xC2: return [.imm16, .force64]
    case 0xC3: return .force64
    case 0xC4, 0xC5: return [.modRM, .invalid64]
    case 0xC6: return [.modRM, .imm8, .byte]
    case 0xC7: return [.modRM, .immZ]
    case 0xC8: return [.enter, .default64]
    case 0xC9: return .default64
    case 0xCA: return .imm16
    case 0xCB, 0xCC, 0xCF: return []
    case 0xCD: return .imm8
    case 0xCE: return .invalid64
    case 0xD0, 0xD2: return [.modRM, .byte]
    case 0xD1, 0xD3: return .modRM
    case 0xD4, 0xD5: return [.imm8, .invalid64]
    case 0xD6: return [.undefined]
    case 0xD7: return .byte
    case 0xD8...0xDF: return .modRM
    case 0xE0...0xE3: return .jump8
    case 0xE4, 0xE6: return [.imm8, .byte]
    case 0xE5, 0xE7: return .imm8
    case 0xE8, 0xE9: return .jumpZ
    case 0xEA: return [.farPointer, .invalid64]
    case 0xEB: return .jump8
    case 0xEC, 0xEE: return .byte
    case 0xED, 0xEF: return []
    case 0xF6: return [.modRM, .byte]
    case 0xF7: return .modRM
    case 0xFE: return [.modRM, .byte]
    case 0xFF: return .modRM
    default: return []  // F1, F4, F5, F8 to FD
    }
  }

  /// What the reg field of ModRM adds to a group's form.
  static func groupForm(_ opcode: UInt8, _ modrm: UInt8) -> InstructionForm {
    let sub = modrm &>> 3 & 7
    switch opcode {
    case 0xF6: return sub < 2 ? .imm8 : []
    case 0xF7: return sub < 2 ? .immZ : []
    case 0xFF:
      switch sub {
      case 2, 4: return .force64
      case 6: return .default64
      default: return []
      }
    case 0xC6, 0xC7: return sub != 0 ? .undefined : []
    case 0x8F: return sub != 0 ? .undefined : []
    default: return []
    }
  }

  static func twoByteForm(_ opcode: UInt8) -> InstructionForm {
    switch opcode {
    case 0x04, 0x0A, 0x0C, 0x0E, 0x24...0x27, 0x36, 0x39, 0x3B...0x3F, 0xA6, 0xA7: return .undefined
    case 0x05...0x09, 0x0B: return []
    case 0x0F: return [.modRM, .imm8, .undefined]
    case 0x20...0x23: return [.modRM, .registersOnly]
    case 0x30...0x35, 0x37: return []
    case 0x70...0x73: return [.modRM, .imm8]
    case 0x77: return []
    case 0x80...0x8F: return .jumpZ
    case 0x90...0x9F: return [.modRM, .byte]
    case 0xA0, 0xA1, 0xA8, 0xA9: return .default64
    case 0xA2, 0xAA: return []
    case 0xA4, 0xAC, 0xBA: return [.modRM, .imm8]
    case 0xB0, 0xC0: return [.modRM, .byte]
    case 0xC2, 0xC4, 0xC5, 0xC6: return [.modRM, .imm8]
    case 0xC8...0xCF: return []
    default: return .modRM
    }
  }

  static func vexForm(map: UInt8, _ opcode: UInt8) -> InstructionForm {
    switch map {
    case 1:
      switch opcode {
      case 0x70...0x73, 0xC2, 0xC4, 0xC5, 0xC6: return [.modRM, .imm8]
      case 0x77: return []
      default: return .modRM
      }
    case 2: return .modRM
    case 3: return [.modRM, .imm8]
    default: return .undefined
    }
  }
}
