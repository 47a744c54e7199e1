// Ways from real mode to the others, and the tables that they need. All guests use the same selectors and page tables.

/// Selectors of the guests' descriptor table.
package enum Selector {
  package static let code64: UInt16 = 0x08
  package static let data: UInt16 = 0x10
  package static let code32: UInt16 = 0x18
  package static let userData: UInt16 = 0x23
  package static let userCode64: UInt16 = 0x2B
  package static let taskState: UInt16 = 0x30
}

extension Assembler {
  package static let stack: UInt32 = 0x9000
  /// Four levels with 2 MiB pages: the lowest GiB, open to user mode.
  package static let longPageTables: UInt64 = 0x1_0000
  /// Two levels of 4 KiB pages: the lowest 4 MiB, of which the last page is absent.
  package static let pageTables32: UInt64 = 0x1_4000

  /// The content of memory at `longPageTables` and `pageTables32`.
  package static func pageTables() -> [(address: UInt64, bytes: [UInt8])] {
    func words64(_ values: [UInt64]) -> [UInt8] {
      values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) } }
    }
    func words32(_ values: [UInt32]) -> [UInt8] {
      values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) } }
    }
    let directory = (0..<UInt64(512)).map { $0 << 21 | 0x87 }
    let table32 = (0..<UInt32(1024)).map { $0 == 1023 ? 0 : $0 << 12 | 7 }
    return [
      (longPageTables, words64([longPageTables + 0x1000 | 7])),
      (longPageTables + 0x1000, words64([longPageTables + 0x2000 | 7])),
      (longPageTables + 0x2000, words64(directory)),
      (pageTables32, words32([UInt32(pageTables32) + 0x1000 | 7])),
      (pageTables32 + 0x1000, words32(table32)),
    ]
  }

  /// In real mode: flat segments and a stack.
  package mutating func beginRealMode() {
    cli()
    emit(0x31, 0xC0)  // xor ax, ax
    emit(0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0)  // mov ds, es, ss
    load(.sp, Assembler.stack)
  }

  /// From real mode to 32-bit protected mode without paging.
  package mutating func enterProtectedMode() {
    beginRealMode()
    memory([0x0F, 0x01], field: 2, "gdtr")  // lgdt
    readControl(0)
    orAX(1)
    writeControl(0)
    let entry = freshLabel()
    farJump(Selector.code32, entry)
    mode = .bits32
    label(entry)
    loadDataSegments()
  }

  /// From real mode to 64-bit mode, through protected mode.
  package mutating func enterLongMode() {
    enterProtectedMode()
    load(.ax, 0x620)  // PAE, OSFXSR, OSXMMEXCPT
    writeControl(4)
    load(.ax, UInt32(Assembler.longPageTables))
    writeControl(3)
    wrmsr(0xC000_0080, 0x901)  // EFER: system calls, long mode, no-execute
    readControl(0)
    orAX(0x8000_0000)
    writeControl(0)
    let entry = freshLabel()
    farJump(Selector.code64, entry)
    mode = .bits64
    label(entry)
    loadDataSegments()
  }

  private mutating func loadDataSegments() {
    load(.ax, UInt32(Selector.data))
    emit(0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0, 0x8E, 0xE0, 0x8E, 0xE8)  // mov ds, es, ss, fs, gs
    load(.sp, Assembler.stack)
  }

  /// The descriptor table that the ways above need, behind the code.
  package mutating func descriptorTable() {
    align(16)
    label("gdt")
    for descriptor: UInt64 in [
      0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_9B00_0000_FFFF,
      0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF,
    ] { emit64(descriptor) }
    // Task state at "tss", of 104 bytes, present, available.
    emit16(103)
    emitAddress(of: "tss", size: 2)
    emit32(0x0000_8900)
    emit64(0)
    label("gdtr")
    emit16(8 * 8 - 1)
    emitAddress(of: "gdt", size: 4)
    align(16)
    // Only RSP0 matters: the stack after a change from user mode.
    label("tss")
    emit32(0)
    emit64(UInt64(Assembler.stack) - 0x800)
    bytes(repeating: 0, count: 92)
  }

  private mutating func bytes(repeating value: UInt8, count: Int) {
    for _ in 0..<count { emit(value) }
  }

  /// An interrupt table "idtr" for the present mode. `handlers`: vector to label; those in `user` may be called from user mode.
  package mutating func interruptTable(_ handlers: [UInt8: String], user: Set<UInt8> = []) {
    align(16)
    let base = "idt\(mode)"
    label(base)
    let entrySize = mode == .bits64 ? 16 : 8
    let count = Int(handlers.keys.max() ?? 0) + 1
    for vector in 0..<count {
      guard let handler = handlers[UInt8(vector)] else {
        bytes(repeating: 0, count: entrySize)
        continue
      }
      emitAddress(of: handler, size: 2)
      emit16(mode == .bits64 ? Selector.code64 : Selector.code32)
      emit16(user.contains(UInt8(vector)) ? 0xEE00 : 0x8E00)
      emit16(0)
      if mode == .bits64 { emit64(0) }
    }
    label("idtr")
    emit16(UInt16(count * entrySize - 1))
    emitAddress(of: base, size: mode == .bits64 ? 8 : 4)
  }

  /// lidt
  package mutating func loadInterruptTable() { memory([0x0F, 0x01], field: 3, "idtr") }
}
