import Block
import Glibc
import Support

/// The real `qemu-img`, which ours is compared with; tests that need it are skipped where it is not installed.
enum QemuImg {
  static let isThere = Support.Process.find("qemu-img") != nil

  /// Runs it; `status` and the joined output.
  static func run(_ arguments: String...) throws -> Support.Process.Result {
    try Support.Process.output(["qemu-img"] + arguments, seconds: 120)
  }

  static func run(_ arguments: [String]) throws -> Support.Process.Result {
    try Support.Process.output(["qemu-img"] + arguments, seconds: 120)
  }
}

/// A folder of this test alone, removed with its last user.
final class ScratchFolder: Sendable {
  let path: String

  init() {
    var template = Array("/tmp/goliath-block-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { name in
      name.baseAddress.flatMap { mkdtemp($0) }.map { String(cString: $0) } ?? "/tmp"
    }
  }

  func file(_ name: String) -> String { "\(path)/\(name)" }

  deinit {
    if let folder = opendir(path) {
      while let entry = readdir(folder) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
          $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        unlink("\(path)/\(name)")
      }
      closedir(folder)
    }
    rmdir(path)
  }
}

/// Random numbers that come again with the same seed, which a failing test prints.
struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64
  let seed: UInt64

  /// With GOLIATH_TEST_SEED in the environment every test has that one, to repeat a failure.
  init(_ seed: UInt64? = nil) {
    let given = Support.Process.environment("GOLIATH_TEST_SEED").flatMap { UInt64($0) }
    let seed = seed ?? given ?? UInt64.random(in: 1...UInt64.max)
    self.seed = seed
    state = seed
  }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }

  mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }
}
