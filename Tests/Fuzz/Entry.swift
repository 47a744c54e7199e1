import Glibc
import Host

/// What a fuzzer does with one input: runs the code, and stops the process when a property does not hold.
protocol Fuzzer {
  init()
  mutating func run(_ input: [UInt8])
}

/// The fuzzer of this process; GOLIATH_FUZZ names it.
nonisolated(unsafe) private var fuzzer: any Fuzzer = {
  let name = getenv("GOLIATH_FUZZ").map { String(cString: $0) } ?? ""
  switch name {
  case "framing": return FramingFuzzer()
  case "parsing": return ParsingFuzzer()
  case "dispatch": return DispatchFuzzer()
  case "hmp": return HMPFuzzer()
  case "telnet": return TelnetFuzzer()
  case "websocket": return WebSocketFuzzer()
  case "options": return OptionsFuzzer()
  case "editor": return EditorFuzzer()
  case "frames": return FrameFuzzer()
  case "image": return ImageFuzzer()
  default:
    print(
      "GOLIATH_FUZZ must be framing, parsing, dispatch, hmp, telnet, websocket, options, editor,"
        + " frames or image")
    exit(2)
  }
}()

/// What libFuzzer calls with each input.
@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  fuzzer.run(Array(UnsafeBufferPointer(start: data, count: size)))
  return 0
}

private typealias Arguments = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
  _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<Arguments?>,
  _ test: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// The program's entry: SwiftPM names it so, and makes it `main`.
@_cdecl("monitor_fuzzer_main")
public func fuzzerMain(
  _ count: CInt, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
) -> CInt {
  var count = count
  var arguments = arguments
  return runDriver(&count, &arguments, testOneInput)
}

/// Stops with what does not hold; libFuzzer keeps the input.
func require(_ condition: Bool, _ what: @autoclosure () -> String) {
  if !condition { fatalError(what()) }
}

/// Cuts an input at places that its first byte chooses.
func pieces(_ input: [UInt8]) -> [[UInt8]] {
  guard let step = input.first.map({ Int($0 % 13) + 1 }) else { return [] }
  return stride(from: 0, to: input.count, by: step).map {
    Array(input[$0..<min($0 + step, input.count)])
  }
}
