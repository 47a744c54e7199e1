package import CPU

/// The notes of a dump that describe its processors: `NT_PRSTATUS` as the kernel writes them (elfcore.h), which debuggers read, and the
/// state as QEMU notes it (name `QEMU`, version 1), which has segments and control registers as well.
package enum CPUNotes {
  /// All notes: first those of the kernel's form for every processor, then QEMU's.
  ///
  /// The form of the first is 64-bit when the first processor is in long mode, else that of a 32-bit kernel.
  package static func encode(_ states: [CPUState]) -> [UInt8] {
    let isLong = isLongMode(states)
    var writer = ByteWriter()
    for (index, state) in states.enumerated() {
      let status = isLong ? status64(state, index) : status32(state, index)
      note("CORE", type: 1, status, into: &writer)
    }
    for state in states { note("QEMU", type: 0, processor(state), into: &writer) }
    return writer.bytes
  }

  /// Whether the dump is one of a 64-bit system.
  package static func isLongMode(_ states: [CPUState]) -> Bool {
    states.first.map { $0.efer & 1 << 10 != 0 } ?? false
  }

  /// A note: name and contents, each padded to four bytes (ELF gABI, Note Section).
  static func note(_ name: String, type: UInt32, _ contents: [UInt8], into writer: inout ByteWriter)
  {
    writer.little(UInt32(name.utf8.count + 1))
    writer.little(UInt32(contents.count))
    writer.little(type)
    writer.text(name, width: name.utf8.count + 1)
    writer.align(4)
    writer.append(contents)
    writer.align(4)
  }

  /// `struct elf_prstatus` of x86-64: 336 bytes. The process number is the processor's, from one.
  private static func status64(_ state: CPUState, _ index: Int) -> [UInt8] {
    var writer = ByteWriter()
    writer.zeros(32)
    writer.little(UInt32(index + 1))
    writer.zeros(76)
    let r = state.registers
    for number in [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7] { writer.little(r[number]) }
    writer.little(UInt64(0))  // orig_rax: no system call
    writer.little(state.rip)
    writer.little(UInt64(state.cs.selector))
    writer.little(state.rflags)
    writer.little(r[4])
    writer.little(UInt64(state.ss.selector))
    writer.little(state.fs.base)
    writer.little(state.gs.base)
    for segment in [state.ds, state.es, state.fs, state.gs] {
      writer.little(UInt64(segment.selector))
    }
    writer.zeros(8)
    return writer.bytes
  }

  /// `struct elf_prstatus` of i386: 144 bytes.
  private static func status32(_ state: CPUState, _ index: Int) -> [UInt8] {
    var writer = ByteWriter()
    writer.zeros(24)
    writer.little(UInt32(index + 1))
    writer.zeros(44)
    let r = state.registers.map { UInt32(truncatingIfNeeded: $0) }
    for number in [3, 1, 2, 6, 7, 5, 0] { writer.little(r[number]) }
    for segment in [state.ds, state.es, state.fs, state.gs] {
      writer.little(UInt32(segment.selector))
    }
    writer.little(UInt32(0))
    writer.little(UInt32(truncatingIfNeeded: state.rip))
    writer.little(UInt32(state.cs.selector))
    writer.little(UInt32(truncatingIfNeeded: state.rflags))
    writer.little(r[4])
    writer.little(UInt32(state.ss.selector))
    writer.zeros(4)
    return writer.bytes
  }

  /// QEMU's own record, version 1: 440 bytes.
  private static func processor(_ state: CPUState) -> [UInt8] {
    var writer = ByteWriter()
    writer.little(UInt32(1))
    writer.little(UInt32(440))
    let r = state.registers
    for number in [0, 3, 1, 2, 6, 7, 4, 5] + Array(8...15) { writer.little(r[number]) }
    writer.little(state.rip)
    writer.little(state.rflags)
    let segments = [
      state.cs, state.ds, state.es, state.fs, state.gs, state.ss, state.ldtr, state.tr,
    ]
    for segment in segments {
      writer.little(UInt32(segment.selector))
      writer.little(segment.limit)
      // As in the high word of a descriptor.
      writer.little(UInt32(segment.attributes) << 8)
      writer.zeros(4)
      writer.little(segment.base)
    }
    for table in [state.gdtr, state.idtr] {
      writer.zeros(4)
      writer.little(UInt32(table.limit))
      writer.zeros(8)
      writer.little(table.base)
    }
    for register in [state.cr0, 0, state.cr2, state.cr3, state.cr4] { writer.little(register) }
    writer.little(state.msrs[0xC000_0102] ?? 0)
    return writer.bytes
  }
}
