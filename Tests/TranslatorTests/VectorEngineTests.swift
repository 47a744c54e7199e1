import CX86
import Testing

import Translator

/// One instruction on a state of its own, without a core around it.
private final class Bench {
  let state: UnsafeMutablePointer<X86State>
  let memory: UnsafeMutableRawPointer
  var image: UnsafeMutableRawPointer { UnsafeMutableRawPointer(state) + 4096 }

  init() {
    let raw = UnsafeMutableRawPointer.allocate(byteCount: 12288, alignment: 4096)
    raw.initializeMemory(as: UInt8.self, repeating: 0, count: 12288)
    state = raw.assumingMemoryBound(to: X86State.self)
    memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 4096)
    state.pointee.cr0 = 0x8005_0033
    state.pointee.cr4 = 0x40620
    state.pointee.xcr0 = 7
    state.pointee.features = 0x7FFFF
    image.storeBytes(of: 0x37F, as: UInt16.self)
    image.storeBytes(of: 0x1F80, toByteOffset: 24, as: UInt32.self)
  }
  deinit {
    UnsafeMutableRawPointer(state).deallocate()
    memory.deallocate()
  }

  /// 0, or the vector that the instruction raises.
  func run(_ bytes: [UInt8], codeSize: UInt8 = 8) -> UInt8 {
    var i = X86Instruction()
    let padded = bytes + [UInt8](repeating: 0x90, count: 16)
    let result = padded.withUnsafeBufferPointer { code -> DecodeResult in
      guard let start = code.baseAddress else { return .truncated }
      return Decoder.decode(start, available: 15, codeSize: codeSize, into: &i)
    }
    guard result == .done, i.handler == Operation.vector.rawValue, VectorEngine.prepare(&i) else {
      return 6
    }
    let checked = VectorEngine.check(state, &i)
    if checked != 0 { return checked }
    return VectorEngine.execute(state, &i, memory)
  }

  func word(_ offset: Int) -> UInt16 { image.load(fromByteOffset: offset, as: UInt16.self) }
  func xmm(_ n: Int, _ half: Int = 0) -> UInt64 {
    image.load(fromByteOffset: 160 + n * 16 + half * 8, as: UInt64.self)
  }
  func setXMM(_ n: Int, _ low: UInt64, _ high: UInt64 = 0) {
    image.storeBytes(of: low, toByteOffset: 160 + n * 16, as: UInt64.self)
    image.storeBytes(of: high, toByteOffset: 168 + n * 16, as: UInt64.self)
  }
}

private let addps: [UInt8] = [0x0F, 0x58, 0xC1]
private let paddb: [UInt8] = [0x0F, 0xFC, 0xC1]
private let fld1: [UInt8] = [0xD9, 0xE8]

@Test func controlRegistersDecideWhetherSSEExists() {
  let bench = Bench()
  #expect(bench.run(addps) == 0)
  bench.state.pointee.cr4 &= ~0x200
  #expect(bench.run(addps) == 6)
  bench.state.pointee.cr4 |= 0x200
  bench.state.pointee.cr0 |= 8
  #expect(bench.run(addps) == 7)
  bench.state.pointee.cr0 |= 4
  #expect(bench.run(addps) == 6)
}

@Test func emulationAndTaskSwitchBitsStopX87AndMMX() {
  let bench = Bench()
  bench.state.pointee.cr0 |= 8
  #expect(bench.run(fld1) == 7)
  #expect(bench.run(paddb) == 7)
  #expect(bench.run([0x9B]) == 7)
  bench.state.pointee.cr0 = 0x8005_0033 | 4
  #expect(bench.run(fld1) == 7)
  #expect(bench.run(paddb) == 6)
  bench.state.pointee.cr0 = 0x8005_0033 & ~2 | 8
  #expect(bench.run([0x9B]) == 0)
}

@Test func absentFeaturesAreUndefined() {
  let bench = Bench()
  let cases: [(Int, [UInt8])] = [
    (x86HasSSE3, [0xF2, 0x0F, 0x7C, 0xC1]), (x86HasSSSE3, [0x66, 0x0F, 0x38, 0x00, 0xC1]),
    (x86HasSSE41, [0x66, 0x0F, 0x38, 0x40, 0xC1]),
    (x86HasSSE42, [0x66, 0x0F, 0x38, 0x37, 0xC1]),
    (x86HasAES, [0x66, 0x0F, 0x38, 0xDC, 0xC1]),
    (x86HasPCLMUL, [0x66, 0x0F, 0x3A, 0x44, 0xC1, 0]),
    (x86HasMMX, paddb), (x86HasFPU, fld1),
  ]
  for (feature, code) in cases {
    bench.state.pointee.features = 0x7FFFF & ~(1 << UInt64(feature))
    #expect(bench.run(code) == 6)
  }
}

@Test func vexNeedsOSXSAVEAndComponentsAndProtectedMode() throws {
  let bench = Bench()
  let vaddps: [UInt8] = [0xC5, 0xF4, 0x58, 0xC2]
  try #require(bench.run(vaddps) == 0)
  bench.state.pointee.xcr0 = 3
  #expect(bench.run(vaddps) == 6)
  bench.state.pointee.xcr0 = 7
  bench.state.pointee.cr4 &= ~0x40000
  #expect(bench.run(vaddps) == 6)
  bench.state.pointee.cr4 |= 0x40000
  bench.state.pointee.cr0 &= ~1
  #expect(bench.run(vaddps, codeSize: 2) == 6)
  bench.state.pointee.cr0 |= 1
  // VPADDB of 256 bits belongs to AVX2, of 128 to AVX.
  bench.state.pointee.features &= ~(1 << UInt64(x86HasAVX2))
  #expect(bench.run([0xC5, 0xF5, 0xFC, 0xC2]) == 6)
  #expect(bench.run([0xC5, 0xF1, 0xFC, 0xC2]) == 0)
}

@Test func unmaskedFloatingPointExceptionLeavesTheDestination() {
  let bench = Bench()
  let divps: [UInt8] = [0x0F, 0x5E, 0xC1]
  bench.setXMM(0, 0x3F80_0000_3F80_0000, 0x3F80_0000_3F80_0000)
  bench.image.storeBytes(of: 0x1D80, toByteOffset: 24, as: UInt32.self)
  #expect(bench.run(divps) == 19)
  #expect(bench.xmm(0) == 0x3F80_0000_3F80_0000)
  #expect(bench.image.load(fromByteOffset: 24, as: UInt32.self) == 0x1D84)
  bench.state.pointee.cr4 &= ~0x400
  #expect(bench.run(divps) == 6)
  // Masked: infinity and a sticky flag.
  bench.image.storeBytes(of: 0x1F80, toByteOffset: 24, as: UInt32.self)
  #expect(bench.run(divps) == 0)
  #expect(bench.xmm(0) == 0x7F80_0000_7F80_0000)
  #expect(bench.image.load(fromByteOffset: 24, as: UInt32.self) == 0x1F84)
}

@Test func guestRoundingModeDecidesResults() {
  let bench = Bench()
  let cvtps2dq: [UInt8] = [0x66, 0x0F, 0x5B, 0xC1]
  for (mode, expected) in [(0, 2), (1, 1), (2, 2), (3, 1)] as [(UInt32, UInt64)] {
    bench.setXMM(1, 0x3FC0_0000)  // 1.5
    bench.image.storeBytes(of: 0x1F80 | mode << 13, toByteOffset: 24, as: UInt32.self)
    #expect(bench.run(cvtps2dq) == 0)
    #expect(bench.xmm(0) == expected)
  }
}

@Test func pendingX87ExceptionIsRaisedByTheNextWaitingInstruction() {
  let bench = Bench()
  // FLD1, FLDZ, FDIVP with division by zero unmasked.
  bench.image.storeBytes(of: 0x37B, as: UInt16.self)
  #expect(bench.run(fld1) == 0)
  #expect(bench.run([0xD9, 0xEE]) == 0)
  #expect(bench.run([0xDE, 0xF9]) == 0)
  #expect(bench.word(2) & 0x84 == 0x84)
  #expect(bench.run(fld1) == 16)
  #expect(bench.run(paddb) == 16)
  #expect(bench.run([0x9B]) == 16)
  // FNSTSW AX does not wait.
  #expect(bench.run([0xDF, 0xE0]) == 0)
  #expect(bench.state.pointee.gpr.0 & 0x84 == 0x84)
  // With CR0.NE clear it goes on as if masked.
  bench.state.pointee.cr0 &= ~0x20
  #expect(bench.run(fld1) == 0)
  bench.state.pointee.cr0 |= 0x20
  #expect(bench.run([0xDB, 0xE2]) == 0)
  #expect(bench.word(2) & 0x80FF == 0)
}

@Test func x87PointersAreTheGuests() {
  let bench = Bench()
  bench.state.pointee.gpr.3 = 0x1234_5000
  bench.state.pointee.rip = 0x4000_1002
  // FLD dword [rbx], then FNSTENV.
  #expect(bench.run([0xD9, 0x03]) == 0)
  bench.state.pointee.rip = 0x4000_1004
  #expect(bench.run([0xD9, 0x33]) == 0)
  #expect(bench.memory.load(fromByteOffset: 12, as: UInt32.self) == 0x4000_1000)
  #expect(bench.memory.load(fromByteOffset: 18, as: UInt16.self) == 0x103)
  #expect(bench.memory.load(fromByteOffset: 20, as: UInt32.self) == 0x1234_5000)
}

@Test func realModeEnvironmentHasLinearAddresses() {
  let bench = Bench()
  bench.state.pointee.cr0 &= ~1
  bench.state.pointee.gpr.3 = 0x0123
  bench.state.pointee.rip = 0x1002
  #expect(bench.run([0xD9, 0x07], codeSize: 2) == 0)  // FLD dword [bx]
  #expect(bench.run([0xD9, 0x37], codeSize: 2) == 0)  // FNSTENV [bx], 14 bytes
  #expect(bench.memory.load(fromByteOffset: 6, as: UInt16.self) == 0x1000)
  #expect(bench.memory.load(fromByteOffset: 8, as: UInt16.self) == 0x107)
  #expect(bench.memory.load(fromByteOffset: 10, as: UInt16.self) == 0x0123)
}

@Test func vexMovesClearTheUpperHalf() {
  let bench = Bench()
  bench.image.storeBytes(of: UInt64.max, toByteOffset: 576, as: UInt64.self)
  bench.setXMM(1, 7, 9)
  #expect(bench.run([0x0F, 0x28, 0xC1]) == 0)  // MOVAPS keeps it
  #expect(bench.image.load(fromByteOffset: 576, as: UInt64.self) == UInt64.max)
  #expect(bench.run([0xC5, 0xF8, 0x28, 0xC1]) == 0)  // VMOVAPS
  #expect(bench.image.load(fromByteOffset: 576, as: UInt64.self) == 0)
  #expect(bench.xmm(0) == 7 && bench.xmm(0, 1) == 9)
}

@Test func comparisonSetsTheGuestsFlags() {
  let bench = Bench()
  bench.setXMM(0, 0x3F80_0000)
  bench.setXMM(1, 0x4000_0000)
  #expect(bench.run([0x0F, 0x2F, 0xC1]) == 0)  // COMISS 1.0, 2.0: below
  #expect(bench.state.pointee.flags & UInt16(X86_RAW_CF) != 0)
  #expect(bench.state.pointee.flags & UInt16(X86_RAW_ZF) == 0)
}

@Test func loadingReservedMXCSRBitsFaults() {
  let bench = Bench()
  bench.memory.storeBytes(of: 0x0001_1F80, as: UInt32.self)
  #expect(bench.run([0x0F, 0xAE, 0x13]) == 13)
  bench.memory.storeBytes(of: 0x0000_9FC0, as: UInt32.self)
  #expect(bench.run([0x0F, 0xAE, 0x13]) == 0)
  #expect(bench.image.load(fromByteOffset: 24, as: UInt32.self) == 0x9FC0)
}

@Test func encodingsBeyondAVX2AreUndefined() {
  let bench = Bench()
  // VAES, VPCLMULQDQ of 256 bits, GFNI, VNNI, EVEX, SSE4a, 3DNow.
  let codes: [[UInt8]] = [
    [0xC4, 0xE2, 0x75, 0xDC, 0xC2], [0xC4, 0xE3, 0x75, 0x44, 0xC2, 0],
    [0x66, 0x0F, 0x38, 0xCF, 0xC1], [0xC4, 0xE2, 0x71, 0x50, 0xC2],
    [0x62, 0xF1, 0x74, 0x48, 0x58, 0xC2], [0xF2, 0x0F, 0x79, 0xC1], [0x0F, 0x0F, 0xC1, 0x9E],
  ]
  for code in codes { #expect(bench.run(code) == 6) }
}

private func decoded(_ bytes: [UInt8]) -> (X86Instruction, isDefined: Bool) {
  var i = X86Instruction()
  let padded = bytes + [UInt8](repeating: 0x90, count: 16)
  let result = Decoder.decode(padded, available: 15, codeSize: 8, into: &i)
  return (i, result == .done && VectorEngine.prepare(&i))
}

@Test func encodingsThatTheHostRefusesAreUndefinedAtDecode() {
  // VMOVAPS names two registers: its vvvv must be 0 (1111 as it stands).
  #expect(decoded([0xC5, 0xF8, 0x28, 0xC1]).isDefined)
  #expect(!decoded([0xC5, 0xF0, 0x28, 0xC1]).isDefined)
  #expect(!decoded([0xC5, 0xF0, 0x28, 0xE5]).isDefined)
  #expect(!decoded([0xC5, 0xF0, 0x28, 0x06]).isDefined)
  // VPSRLW by an immediate is extension 2 of its group, and 3 does not exist.
  #expect(decoded([0xC5, 0xF1, 0x71, 0xD2, 1]).isDefined)
  #expect(!decoded([0xC5, 0xF1, 0x71, 0xDA, 1]).isDefined)
  #expect(decoded([0x66, 0x0F, 0x71, 0xD2, 1]).isDefined)
  #expect(!decoded([0x66, 0x0F, 0x71, 0xDA, 1]).isDefined)
  // D9 /1 with a register is FXCH, D9 D1 to D7 are nothing.
  #expect(decoded([0xD9, 0xC9]).isDefined)
  #expect(!decoded([0xD9, 0xD1]).isDefined)
}

@Test func stubsAreMadeAtFirstExecutionAndShared() {
  let bench = Bench()
  // PADDB XMM13,XMM11
  let bytes: [UInt8] = [0x66, 0x45, 0x0F, 0xFC, 0xEB]
  var first = decoded(bytes).0
  #expect(first.vectorPointer == 0)
  bench.setXMM(13, 0x0102, 0xFF)
  bench.setXMM(11, 0x0101, 0x02)
  #expect(VectorEngine.execute(bench.state, &first, nil) == 0)
  #expect(first.vectorPointer != 0)
  var second = decoded(bytes).0
  #expect(VectorEngine.execute(bench.state, &second, nil) == 0)
  #expect(second.vectorPointer == first.vectorPointer)
  #expect(bench.xmm(13) == 0x0304)
  #expect(bench.xmm(13, 1) == 0x03)
}
