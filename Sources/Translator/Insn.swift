package import CX86

/// A decoded instruction as the interpreter reads it.
@safe package struct Insn {
  // SAFETY (whole file): points into a block's instructions, which are freed only between blocks.
  package let p: UnsafePointer<X86Instruction>
  @inline(__always) package init(_ p: UnsafePointer<X86Instruction>) { unsafe self.p = p }

  @inline(__always) var handler: UInt8 { unsafe p.pointee.handler }
  @inline(__always) var length: UInt8 { unsafe p.pointee.length }
  @inline(__always) var map: UInt8 { unsafe p.pointee.map }
  @inline(__always) var opcode: UInt8 { unsafe p.pointee.opcode }
  @inline(__always) var modrm: UInt8 { unsafe p.pointee.modrm }
  @inline(__always) var prefixes: UInt8 { unsafe p.pointee.prefixes }
  @inline(__always) var rex: UInt8 { unsafe p.pointee.rex }
  @inline(__always) var hasREX: Bool { unsafe p.pointee.rex != 0 }
  @inline(__always) var size: UInt8 { unsafe p.pointee.operandSize }
  @inline(__always) var addressSize: UInt8 { unsafe p.pointee.addressSize }
  @inline(__always) var addressMask: UInt64 { unsafe p.pointee.addressMask }
  @inline(__always) var segment: UInt8 { unsafe p.pointee.segment }
  @inline(__always) var reg: UInt8 { unsafe p.pointee.reg }
  @inline(__always) var rm: UInt8 { unsafe p.pointee.rm }
  @inline(__always) var base: UInt8 { unsafe p.pointee.base }
  @inline(__always) var index: UInt8 { unsafe p.pointee.index }
  @inline(__always) var scale: UInt8 { unsafe p.pointee.scale }
  @inline(__always) var displacement: UInt64 {
    UInt64(bitPattern: Int64(unsafe p.pointee.displacement))
  }
  @inline(__always) var immediate: UInt64 { unsafe p.pointee.immediate }
  @inline(__always) var immediate2: UInt16 { unsafe p.pointee.immediate2 }
  @inline(__always) var codeSize: UInt8 { unsafe p.pointee.codeSize }
  @inline(__always) var pp: UInt8 { unsafe p.pointee.pp }
  @inline(__always) var vexV: UInt8 { unsafe p.pointee.vexV }
  @inline(__always) var memorySize: UInt16 { unsafe p.pointee.memorySize }
  @inline(__always) var memoryAccess: UInt8 { unsafe p.pointee.memoryAccess }
  @inline(__always) var memoryAlignment: UInt8 { unsafe p.pointee.memoryAlignment }

  @inline(__always) var sub: UInt8 { modrm &>> 3 & 7 }
  @inline(__always) var isRegister: Bool { modrm >= 0xC0 }
  @inline(__always) var isLocked: Bool { prefixes & UInt8(X86_PREFIX_LOCK) != 0 }
  @inline(__always) var isREP: Bool { prefixes & UInt8(X86_PREFIX_F3) != 0 }
  @inline(__always) var isREPNE: Bool { prefixes & UInt8(X86_PREFIX_F2) != 0 }
}

extension Core {
  /// Offset of the memory operand in its segment.
  @inline(__always) package func effectiveAddress(_ i: Insn) -> UInt64 {
    let scaled = r64(i.index) &<< UInt64(i.scale)
    return (r64(i.base) &+ scaled &+ i.displacement) & i.addressMask
  }

  package func effectiveAddress(_ p: UnsafePointer<X86Instruction>) -> UInt64 {
    unsafe effectiveAddress(Insn(p))
  }
}
