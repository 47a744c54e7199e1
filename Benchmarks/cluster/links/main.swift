import Cluster
import ClusterBenchmarks
import Glibc
import Host

// What a round trip between two nodes costs, beside a raw one on the same kind of socket: benchmark-links [unix|tcp|tcp6] [NUMBER] [cpus=A,B] [json].
//
// Two processes. Raw: a header of 32 bytes there and 32 bytes, or as many and a page of 4 KiB, back, by blocking calls and nothing else. Frames: a
// request on ctl and its reply; a GETS on mem and its DATAS of a page, whose bytes go to their place. Woken: raw, but on both sides one thread
// reads and wakes another, which writes (what an interrupt for a vCPU that sleeps needs at least). In short rounds by turns; medians and minima in
// microseconds of wall-clock time. `cpus` says where the two processes run.

let words = CommandLine.arguments.dropFirst()
let kind = words.first { ["unix", "tcp", "tcp6"].contains($0) } ?? "unix"
let cpus = (words.first { $0.hasPrefix("cpus=") }?.dropFirst(5) ?? "").split(separator: ",")
  .compactMap { Int($0) }
let isJSON = words.contains("json")
let rounds = 50
let number = max((words.compactMap { Int($0) }.first ?? 10_000) / rounds, 10)
let page = 4096
let runPages = 64

/// Answers requests, and sends as many pages as a GETS asks for.
final class Server: FrameHandler {
  let transport: LinkTransport
  let pages = IOBuffer(count: runPages * page)
  init(_ transport: LinkTransport) { self.transport = transport }
  func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    if header.type == .getS {
      transport.send(
        FrameHeader(.dataS), body: pages.vector(0..<Int(header.argument) * page), to: node)
    } else {
      transport.reply(to: header, of: node, argument: 0, body: IOVector())
    }
  }
  func lost(_ node: NodeID) { exit(0) }
}

/// Takes pages.
final class Client: FrameHandler {
  let place = IOBuffer(count: runPages * page)
  let waiter = FrameWaiter()
  func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    _ = body.read(into: place.vector(0..<body.remaining))
    waiter.finish()
  }
  func lost(_ node: NodeID) { waiter.finish() }
}

/// Puts the process on one of `cpus`.
func settle(_ place: Int) {
  if place < cpus.count { TwoProcesses.settle(on: cpus[place]) }
}

/// Starts a thread that wakes `word` for every header that comes.
func wake(_ word: WaitWord, from descriptor: Int32) throws -> HostThread {
  try HostThread(name: "reader") {
    let header = UnsafeMutableRawPointer.allocate(byteCount: 32, alignment: 32)
    while RawTrips.read(descriptor, header, 32) { word.advanceOne() }
  }
}

func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

var processes = TwoProcesses(kind)
let raw = try processes.connectRaw("raw")
let ctl = try processes.connect("ctl")
let mem = try processes.connect("mem")
let woken = try processes.connectRaw("woken")
let child = processes.fork([raw, ctl, mem, woken])
if child == 0 {
  settle(1)
  let word = WaitWord()
  let reader = try wake(word, from: woken.child)
  let writer = try HostThread(name: "writer") {
    let header = UnsafeMutableRawPointer.allocate(byteCount: 32, alignment: 32)
    var seen: UInt32 = 0
    while true {
      while word.value == seen { word.wait(while: seen) }
      seen &+= 1
      if write(woken.child, header, 32) != 32 { return }
    }
  }
  let transport = LinkTransport(node: node(0), nodeCount: 2)
  transport.setHandler(Server(transport), for: [.portRead, .getS])
  try TwoProcesses.attach(transport, ctl: ctl.child, mem: mem.child, to: node(1))
  RawTrips(raw.child).serve()
  withExtendedLifetime((reader, writer)) {}
  exit(0)
}
settle(0)
let answer = WaitWord()
let answerReader = try wake(answer, from: woken.parent)

let client = Client()
let transport = LinkTransport(node: node(1), nodeCount: 2)
transport.setHandler(client, for: [.dataS])
try TwoProcesses.attach(transport, ctl: ctl.parent, mem: mem.parent, to: node(0))
let trips = RawTrips(raw.parent)
nonisolated(unsafe) let header = UnsafeMutableRawPointer.allocate(byteCount: 32, alignment: 32)

func wokenTrip() {
  let seen = answer.value
  _ = write(woken.parent, header, 32)
  while answer.value == seen { answer.wait(while: seen) }
}
func pageTrip(_ pages: Int) {
  client.waiter.reset()
  transport.send(
    FrameHeader(.getS, argument: UInt64(pages)), body: IOVector(), to: node(0),
    waiting: client.waiter)
}

let cases: [(String, Int, () -> Void)] = [
  ("raw small", number, { trips.ask(32) }),
  ("raw small, woken", number, { wokenTrip() }),
  ("frame small", number, { _ = try? transport.request(FrameHeader(.portRead), to: node(0)) }),
  ("raw 4 KiB", number, { trips.ask(32 + page) }),
  ("frame 4 KiB", number, { pageTrip(1) }),
  ("raw 64 pages", number / 10, { trips.ask(32 + runPages * page) }),
  ("frame 64 pages", number / 10, { pageTrip(runPages) }),
]
var figures = Figures()
for _ in 0..<rounds {
  for (name, count, body) in cases { figures.add(name, Figures.times(count, body)) }
}

if isJSON {
  print(figures.json)
} else {
  print("\(kind), \(number * rounds) round trips, \(rounds) rounds: microseconds")
  for name in figures.names { print(figures.line(name)) }
  for size in ["small", "4 KiB", "64 pages"] {
    let ratio = figures.median("frame \(size)") / figures.median("raw \(size)")
    print("  frame / raw, \(size): \(Figures.text(ratio))")
  }
}
fflush(nil)
processes.end(child)
_exit(0)
