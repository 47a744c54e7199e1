import CPU
import Host

/// What a reset puts into a node's vCPUs beyond the architectural state: the body of `reset`. Without firmware, a kernel finds memory types
/// and its first instruction set up (`BootPlan.entry`).
///
/// The number of registers (4 bytes), each one's index (4) and value (8), then nothing or `BootProcessorState`.
struct ResetState: Equatable {
  /// Model-specific registers of all vCPUs.
  var registers: [UInt32: UInt64] = [:]
  /// Where vCPU 0 begins; nil: at the reset vector.
  var bootProcessor: BootProcessorState?

  private static let entrySize = 12
  private static let limit = 256

  init(registers: [UInt32: UInt64] = [:], bootProcessor: BootProcessorState? = nil) {
    self.registers = registers
    self.bootProcessor = bootProcessor
  }

  var isEmpty: Bool { registers.isEmpty && bootProcessor == nil }

  var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.append32(UInt32(clamping: registers.count))
    for (index, value) in registers.sorted(by: { $0.key < $1.key }) {
      bytes.append32(index)
      bytes.append64(value)
    }
    for word in bootProcessor?.words ?? [] { bytes.append64(word) }
    return bytes
  }

  /// Nil when the bytes are none.
  init?(_ bytes: [UInt8]) {
    guard bytes.count >= 4 else { return nil }
    let reader = LittleEndian(bytes)
    let count = Int(reader.u32(0))
    guard count <= ResetState.limit else { return nil }
    let end = 4 + count * ResetState.entrySize
    guard bytes.count == end || bytes.count == end + BootProcessorState.wordCount * 8 else {
      return nil
    }
    for at in stride(from: 4, to: end, by: ResetState.entrySize) {
      registers[reader.u32(at)] = reader.u64(at + 4)
    }
    if bytes.count > end {
      bootProcessor = BootProcessorState(
        words: stride(from: end, to: bytes.count, by: 8).map { reader.u64($0) })
    }
  }
}

/// What a boot plan sets of vCPU 0 for its first instruction: the rest is as after reset.
struct BootProcessorState: Equatable {
  static let wordCount = 16 + 3 + 8 * 2 + 2 * 2

  private(set) var words: [UInt64]

  private static var segments: [WritableKeyPath<CPUState, SegmentRegister>] {
    [\.es, \.cs, \.ss, \.ds, \.fs, \.gs, \.ldtr, \.tr]
  }

  /// `words` are `wordCount`.
  fileprivate init(words: [UInt64]) { self.words = words }

  init(_ state: CPUState) {
    words = (0..<16).map { state.registers[$0] } + [state.rip, state.rflags, state.cr0]
    for path in BootProcessorState.segments {
      let segment = state[keyPath: path]
      words.append(segment.base)
      words.append(
        UInt64(segment.selector) | UInt64(segment.attributes) << 16 | UInt64(segment.limit) << 32)
    }
    for table in [state.gdtr, state.idtr] { words += [table.base, UInt64(table.limit)] }
  }

  func apply(to state: inout CPUState) {
    state.registers = Array(words[0..<16])
    (state.rip, state.rflags, state.cr0) = (words[16], words[17], words[18])
    for (index, path) in BootProcessorState.segments.enumerated() {
      let packed = words[20 + index * 2]
      state[keyPath: path] = SegmentRegister(
        selector: UInt16(truncatingIfNeeded: packed), base: words[19 + index * 2],
        limit: UInt32(truncatingIfNeeded: packed >> 32),
        attributes: UInt16(truncatingIfNeeded: packed >> 16))
    }
    state.gdtr = DescriptorTableRegister(
      base: words[35], limit: UInt16(truncatingIfNeeded: words[36]))
    state.idtr = DescriptorTableRegister(
      base: words[37], limit: UInt16(truncatingIfNeeded: words[38]))
  }
}
