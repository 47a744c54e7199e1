import COracle

/// The host CPU in a child process.
final class OracleHostCPU {
  /// What to run, and from which state.
  struct Piece {
    var code: [UInt8]
    /// Where in the code pages.
    var offset: Int
    var registers: [UInt64]
    var flags: UInt64
    var xsave: [UInt8]
  }
  struct NoChild: Error {}

  private var process: OpaquePointer
  private let capacity: Int
  private let hasWritableCode: Bool
  /// What the data pages hold before each run.
  let data: [UInt8]

  init(capacity: Int, writableCode: Bool) throws {
    guard let process = unsafe oracle_start(capacity, writableCode ? 1 : 0) else {
      throw NoChild()
    }
    unsafe self.process = process
    self.capacity = capacity
    hasWritableCode = writableCode
    data = unsafe Array(
      UnsafeBufferPointer(start: oracle_data(process), count: Int(ORACLE_DATA_BYTES)))
  }

  deinit { unsafe oracle_stop(process) }

  /// Nil for pieces that killed the child.
  func run(_ list: [Piece]) throws -> [OracleOutcome?] {
    let slots = unsafe oracle_cases(process)
    for (n, one) in list.enumerated() { unsafe fill(&slots[n], one) }
    let result = unsafe oracle_run(process, list.count)
    if result != 0 {
      // The child died: leave that piece out and run the others one after the other.
      unsafe oracle_stop(process)
      guard let fresh = unsafe oracle_start(capacity, hasWritableCode ? 1 : 0) else {
        throw NoChild()
      }
      unsafe process = fresh
      if list.count == 1 { return [nil] }
      return try list.flatMap { try run([$0]) }
    }
    return list.indices.map { unsafe outcome(slots[$0], $0) }
  }

  private func fill(_ slot: inout OracleCase, _ one: Piece) {
    unsafe withUnsafeMutableBytes(of: &slot.before.gpr) { bytes in
      for n in 0..<16 {
        unsafe bytes.storeBytes(of: one.registers[n], toByteOffset: n * 8, as: UInt64.self)
      }
    }
    slot.before.rflags = one.flags
    unsafe withUnsafeMutableBytes(of: &slot.before.xsave) { unsafe $0.copyBytes(from: one.xsave) }
    slot.offset = UInt32(one.offset)
    slot.length = UInt32(one.code.count)
    unsafe withUnsafeMutableBytes(of: &slot.code) { unsafe $0.copyBytes(from: one.code) }
  }

  private func outcome(_ slot: OracleCase, _ index: Int) -> OracleOutcome {
    let after = slot.after
    let registers = unsafe withUnsafeBytes(of: after.gpr) { bytes in
      (0..<16).map { unsafe bytes.load(fromByteOffset: $0 * 8, as: UInt64.self) }
    }
    let writable = Int(ORACLE_DATA_BYTES) - 4096
    return OracleOutcome(
      registers: registers, rip: after.rip, flags: after.rflags, vector: after.vector,
      error: after.error, faultAddress: after.cr2,
      xsave: unsafe withUnsafeBytes(of: after.xsave) { unsafe Array($0) },
      data: unsafe Array(
        UnsafeBufferPointer(start: oracle_result_data(process, index), count: writable)),
      code: hasWritableCode
        ? unsafe Array(
          UnsafeBufferPointer(
            start: oracle_result_code(process, index), count: Int(ORACLE_CODE_SPACE))) : [])
  }

  /// What differs between two XSAVE images, as text.
  static func compareXSAVE(_ a: [UInt8], _ b: [UInt8], names: (String, String)) -> String {
    var text = ""
    func field(_ name: String, _ range: Range<Int>) {
      if a[range] == b[range] { return }
      func hex(_ bytes: ArraySlice<UInt8>) -> String {
        bytes.reversed().map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
      }
      text += " \(name): \(names.0) \(hex(a[range])), \(names.1) \(hex(b[range]));"
    }
    field("fcw", 0..<2)
    field("fsw", 2..<4)
    field("ftw", 4..<5)
    // Some processors save the pointers only while an exception is pending.
    if a[2] & 0x80 != 0 {
      field("fop", 6..<8)
      field("fip", 8..<16)
      field("fdp", 16..<24)
    }
    field("mxcsr", 24..<28)
    for n in 0..<8 { field("st\(n)", (32 + n * 16)..<(42 + n * 16)) }
    for n in 0..<16 { field("xmm\(n)", (160 + n * 16)..<(176 + n * 16)) }
    for n in 0..<16 { field("ymmh\(n)", (576 + n * 16)..<(592 + n * 16)) }
    return text
  }
}
