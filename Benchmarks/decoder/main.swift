// What decoding costs: `swift run -c release DecoderBenchmark FILE...`, ELF files whose executable sections are swept
// from end to end. Nanoseconds of CPU time an instruction, the best of several passes: the decoder alone, with what the
// vector engine adds, with what the translator asks besides.
import CX86
import Glibc
import Translator

func cpuNanoseconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return Double(time.tv_sec) * 1e9 + Double(time.tv_nsec)
}

/// The whole file; empty when it cannot be read.
func contents(_ path: String) -> [UInt8] {
  let descriptor = open(path, O_RDONLY)
  guard descriptor >= 0 else { return [] }
  defer { close(descriptor) }
  let size = Int(lseek(descriptor, 0, SEEK_END))
  guard size > 0 else { return [] }
  return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
    while count < size {
      let got = pread(descriptor, buffer.baseAddress.map { $0 + count }, size - count, count)
      if got <= 0 { break }
      count += got
    }
  }
}

/// The bytes of all executable sections of a 64-bit ELF file (System V ABI, "Sections").
func text(_ file: [UInt8]) -> [UInt8] {
  func number(_ offset: Int, _ size: Int) -> Int {
    guard offset >= 0, offset + size <= file.count else { return 0 }
    return (0..<size).reduce(0) { $0 | Int(file[offset + $1]) << ($1 * 8) }
  }
  guard file.count > 64, Array(file[0..<5]) == [0x7F, 0x45, 0x4C, 0x46, 2] else { return [] }
  var result: [UInt8] = []
  for n in 0..<number(60, 2) {
    let header = number(40, 8) + n * number(58, 2)
    let start = number(header + 24, 8)
    let size = number(header + 32, 8)
    // SHT_PROGBITS with SHF_EXECINSTR.
    guard number(header + 4, 4) == 1, number(header + 8, 8) & 4 != 0 else { continue }
    guard start > 0, size > 0, start + size <= file.count else { continue }
    result += file[start..<start + size]
  }
  return result
}

enum Work: String, CaseIterable {
  case decode, prepare, facts
}

/// Sweeps the code once: instructions, those of the vector engine, and a sum that keeps the work from being left out.
func sweep(_ code: [UInt8], _ work: Work) -> (count: Int, vectors: Int, sum: Int) {
  code.withUnsafeBufferPointer { code -> (Int, Int, Int) in
    guard let start = code.baseAddress else { return (0, 0, 0) }
    var i = X86Instruction()
    var (count, vectors, sum) = (0, 0, 0)
    var offset = 0
    while offset < code.count {
      let result = Decoder.decode(
        start + offset, available: min(4096, code.count - offset), codeSize: 8, into: &i)
      guard case .done = result else { break }
      count += 1
      offset += Int(i.length)
      sum &+= Int(i.handler)
      if work == .decode { continue }
      if i.handler == Operation.vector.rawValue {
        vectors += 1
        if !VectorEngine.prepare(&i) { i.handler = Operation.undefined.rawValue }
      }
      if work == .prepare { continue }
      let facts = InstructionFacts.of(&i, features: UInt64.max, vectorFeatures: UInt64.max)
      sum &+= Int(facts.flagsRead) &+ Int(facts.implicitWritten) &+ Int(facts.bytes)
    }
    return (count, vectors, sum)
  }
}

let paths = CommandLine.arguments.count > 1 ? Array(CommandLine.arguments[1...]) : ["/bin/busybox"]
for path in paths {
  let code = text(contents(path))
  var cells = ""
  var found = (instructions: 0, vectors: 0)
  for work in Work.allCases {
    // The first pass also makes what is made once for each encoding.
    let first = cpuNanoseconds()
    var result = sweep(code, work)
    let cold = cpuNanoseconds() - first
    var best = Double.infinity
    for _ in 0..<7 {
      let start = cpuNanoseconds()
      result = sweep(code, work)
      best = min(best, cpuNanoseconds() - start)
    }
    let count = Double(max(1, result.count))
    found = (result.count, result.vectors)
    let warm = (best / count * 10).rounded() / 10
    let before = (cold / count * 10).rounded() / 10
    cells += "  \(work.rawValue) \(warm) ns (at first \(before))"
  }
  print("\(path): \(found.instructions) instructions, \(found.vectors) of the vector engine")
  print(cells)
}
