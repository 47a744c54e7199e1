import Cluster
import ClusterBenchmarks
import Glibc
import Host
import Shm

// What a page costs that comes from another node, beside a raw round trip of as many bytes on the same kind of socket:
// benchmark-pages [unix|tcp|tcp6] [NUMBER] [cpus=A,B] [only=NAME] [json].
//
// Two processes with coherent memory of 64 MiB, of which node 0 is the home but for the last 8, which are node 1's; node 0 has all bytes. Node 1
// acquires pages in no order: to read, to write, to write what it reads, to write where it is the home itself; and runs of 64. Then node 0 takes
// them back, and so on: 128 pages of each kind, and 16 MiB of runs. No engines: what is measured is protocol, threads and sockets.
// Short rounds of each kind take turns with the raw ones; wall-clock microseconds. `cpus` says where node 1 and node 0 run.

struct Choices {
  var kind = "unix"
  var number = 10_000
  var cpus: [Int] = []
  var only: String?
  var isJSON = false
  init() {
    for word in CommandLine.arguments.dropFirst() {
      if let number = Int(word) {
        self.number = number
      } else if word.hasPrefix("cpus=") {
        cpus = word.dropFirst(5).split(separator: ",").compactMap { Int($0) }
      } else if word.hasPrefix("only=") {
        only = String(word.dropFirst(5))
      } else if word == "json" {
        isJSON = true
      } else {
        kind = word
      }
    }
  }
}
let choices = Choices()
let kind = choices.kind
let rounds = 100
let singlePages = 128
let number = min(max(choices.number / rounds, 1), singlePages)
let page = 4096
let pageCount = 16_384
let ownPages = 2048
/// Where runs are: the first page, and how many.
let runStart = 8192
let runCount = 64

/// Puts the process on one of `cpus`.
func settle(_ place: Int) {
  if place < choices.cpus.count { TwoProcesses.settle(on: choices.cpus[place]) }
}

func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

/// Memory that the two nodes have in common.
struct SharedMemory {
  let memory = GuestMemory()
  let coherent: CoherentMemory
  init(_ transport: LinkTransport, fills: Bool) throws {
    let block = try RAMBlock(name: "ram", size: pageCount * page)
    memory.setSlots([
      MemorySlot(guest: GuestAddress(0), size: UInt64(block.size), block: block)
    ])
    // The host's pages are there on both sides: what they cost at first is not the protocol's.
    for number in 0..<pageCount {
      let word = fills ? UInt64(number + 1) : 0
      block.base.storeBytes(of: word, toByteOffset: number * page, as: UInt64.self)
    }
    // What is read is then written, again and again: each request is to be what it says.
    var tuning = CoherentMemory.Tuning()
    tuning.followsMigration = false
    coherent = try CoherentMemory(
      memory: memory,
      regions: [
        CoherentMemory.Region(guest: GuestAddress(0), size: UInt64(block.size), block: block)
      ], transport: transport,
      homes: HomeMap(
        .numa, nodeCount: 2, bytes: UInt64(block.size),
        sliceBytes: [UInt64((pageCount - ownPages) * page), UInt64(ownPages * page)]),
      tuning: tuning)
    try coherent.start(owner: node(0))
  }
}

var processes = TwoProcesses(kind)
let raw = try processes.connectRaw("raw")
let ctl = try processes.connect("ctl")
let mem = try processes.connect("mem")
let child = processes.fork([raw, ctl, mem])
if child == 0 {
  settle(1)
  let transport = LinkTransport(node: node(0), nodeCount: 2)
  let shared = try SharedMemory(transport, fills: true)
  try TwoProcesses.attach(transport, ctl: ctl.child, mem: mem.child, to: node(1))
  RawTrips(raw.child).serve { pages in
    for first in stride(from: pages.lowerBound, to: pages.upperBound, by: 64) {
      let start = GuestAddress(UInt64(first * page))
      guard shared.coherent.acquire(start, count: UInt64(64 * page), .write) == .granted else {
        exit(1)
      }
    }
  }
  exit(0)
}
settle(0)

let transport = LinkTransport(node: node(1), nodeCount: 2)
let shared = try SharedMemory(transport, fills: false)
try TwoProcesses.attach(transport, ctl: ctl.parent, mem: mem.parent, to: node(0))
let trips = RawTrips(raw.parent)

let order = (0..<singlePages).map { number in
  (0..<7).reduce(0) { $0 | (number >> $1 & 1) << (6 - $1) }
}

/// Pages come in an order without runs.
struct Shuffle {
  var pages: Range<Int>
  var next = 0
  mutating func page() -> GuestAddress {
    // Bits in reverse: the neighbour comes half a set later, so nobody takes it for a run.
    let place = order[next & (singlePages - 1)]
    next += 1
    return GuestAddress(UInt64((pages.lowerBound + place) * 4096))
  }
}
nonisolated(unsafe) var toRead = Shuffle(pages: 0..<singlePages)
nonisolated(unsafe) var toWrite = Shuffle(pages: 2048..<2048 + singlePages)
nonisolated(unsafe) var own = Shuffle(
  pages: pageCount - ownPages..<pageCount - ownPages + singlePages)
nonisolated(unsafe) var run = 0
nonisolated(unsafe) var readable: [GuestAddress] = []
func wait(_ address: GuestAddress, _ right: PageRight) {
  guard shared.memory.acquire(address, right) == .granted else { exit(1) }
  shared.memory.settle(address)
}
func takeRun() {
  let start = GuestAddress(UInt64((runStart + run * 64) * page))
  guard
    shared.coherent.acquire(start, count: UInt64(64 * page), .read) == .granted
  else { exit(1) }
  run += 1
}

nonisolated(unsafe) var figures = Figures()
func measure(_ name: String, _ count: Int, _ body: () -> Void) {
  if let only = choices.only, only != name, name != "page to read" || only != "grant" { return }
  figures.add(name, Figures.times(count, body))
}

for turn in -1..<rounds {
  if turn == 0 {
    // The first round has made the tables' own memory.
    figures.clear()
  }
  measure("raw small", number) { trips.ask(32) }
  measure("raw 4 KiB", number) { trips.ask(32 + page) }
  measure("page to read", number) {
    let address = toRead.page()
    wait(address, .read)
    readable.append(address)
  }
  measure("grant", readable.count) { wait(readable.removeLast(), .write) }
  measure("page to write", number) { wait(toWrite.page(), .write) }
  measure("page to its home", number) { wait(own.page(), .write) }
  measure("raw 64 pages", max(number / 20, 1)) { trips.ask(32 + 64 * page) }
  measure("run of 64", max(number / 20, 1)) { takeRun() }
  if turn < 0 {
    for _ in toRead.next..<singlePages { wait(toRead.page(), .write) }
    for _ in toWrite.next..<singlePages { wait(toWrite.page(), .write) }
    for _ in own.next..<singlePages { wait(own.page(), .write) }
    for pages in [toRead.pages, toWrite.pages, own.pages] { trips.tell(pages) }
    toRead.next = 0
    toWrite.next = 0
    own.next = 0
  }
  if run > runCount - max(number / 20, 1) || turn < 0 {
    trips.tell(runStart..<runStart + runCount * 64)
    run = 0
  }
  if toRead.next > singlePages - number {
    trips.tell(toRead.pages)
    toRead.next = 0
  }
  if toWrite.next > singlePages - number {
    trips.tell(toWrite.pages)
    toWrite.next = 0
  }
  if own.next > singlePages - number {
    trips.tell(own.pages)
    own.next = 0
  }
}

if choices.isJSON {
  print(figures.json)
} else {
  print("\(kind), \(number * rounds) pages, \(rounds) rounds: microseconds")
  for name in figures.names { print(figures.line(name)) }
  for (name, base) in [
    ("page to read", "raw 4 KiB"), ("page to write", "raw 4 KiB"),
    ("page to its home", "raw 4 KiB"), ("grant", "raw small"),
  ] where figures.median(base) > 0 {
    print("  \(name) / \(base): \(Figures.text(figures.median(name) / figures.median(base)))")
  }
  print("  run of 64, a page: \(Figures.text(figures.median("run of 64") / 64))")
}
fflush(nil)
processes.end(child)
_exit(0)
