import Cluster
import Shm

/// The state machines of the page protocol in a world of their own: nodes, pages, streams that keep their order, delays. It takes the same
/// steps in the same order as the executable reference (`sim.py` of the design notes), so that a seed gives the same messages.
final class ProtocolSimulation {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// What one page is at one node.
  private struct Cell {
    var agent: PageAgent
    var value = 0
    var waiting: [(write: Bool, done: () throws -> Void)]?
  }

  let nodeCount: Int
  let pageCount: Int
  private let delay: () -> Double
  private let send: Double
  private var manners = PageHome.Manners()
  private var cells: [[Cell]] = []  // by node, page
  private var homes: [PageHome]
  private var homeBytes: [Int]
  private var pool = WaiterPool()
  private var truth: [Int]
  private(set) var time = 0.0
  private(set) var messages = 0
  private(set) var trace = CoherenceTrace()
  /// Wants events of accesses too.
  var isTracing = false

  private struct Event {
    let time: Double
    let number: Int
    let run: () throws -> Void
  }
  private var queue: [Event] = []
  private var number = 0
  private var last: [Int: Double] = [:]
  private var busyUntil: [Double]

  init(
    nodes: Int, pages: Int, send: Double = 0, forwards: Bool, followsMigration: Bool = false,
    delay: @escaping () -> Double
  ) {
    nodeCount = nodes
    pageCount = pages
    self.delay = delay
    self.send = send
    manners.forwards = forwards
    manners.followsMigration = followsMigration
    homes = (0..<pages).map { PageHome(owner: NodeID(rawValue: UInt8($0 % nodes))) }
    homeBytes = Array(repeating: 0, count: pages)
    truth = Array(repeating: 0, count: pages)
    busyUntil = Array(repeating: 0, count: nodes)
    for node in 0..<nodes {
      cells.append(
        (0..<pages).map { Cell(agent: PageAgent($0 % nodes == node ? .modified : .invalid)) })
    }
  }

  // MARK: - Time

  func at(_ time: Double, _ run: @escaping () throws -> Void) {
    number += 1
    queue.append(Event(time: time, number: number, run: run))
    var child = queue.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      if !precedes(child, parent) { break }
      queue.swapAt(child, parent)
      child = parent
    }
  }

  private func precedes(_ a: Int, _ b: Int) -> Bool {
    queue[a].time != queue[b].time
      ? queue[a].time < queue[b].time : queue[a].number < queue[b].number
  }

  private func pop() -> Event {
    queue.swapAt(0, queue.count - 1)
    let event = queue.removeLast()
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < queue.count && precedes(child, least) { least = child }
      if least == parent { return event }
      queue.swapAt(parent, least)
      parent = least
    }
  }

  func run() throws {
    var left = 10_000_000
    while !queue.isEmpty {
      left -= 1
      if left == 0 { throw Failure(description: "did not finish") }
      let event = pop()
      time = event.time
      try event.run()
    }
  }

  private func post(_ source: Int, _ target: Int, _ run: @escaping () throws -> Void) {
    if source == target { return at(time, run) }
    messages += 1
    busyUntil[source] = max(time, busyUntil[source]) + send
    let stream = source * nodeCount + target
    let due = max(busyUntil[source] + delay(), last[stream] ?? 0)
    last[stream] = due
    at(due, run)
  }

  // MARK: - Nodes

  func access(_ node: Int, _ page: Int, write: Bool, done: @escaping () throws -> Void) throws {
    switch cells[node][page].agent.access(write ? .write : .read, page: UInt64(page)) {
    case .hit:
      if write {
        truth[page] += 1
        cells[node][page].value = truth[page]
      } else if cells[node][page].value != truth[page] {
        throw Failure(description: "node \(node) reads an old value of page \(page)")
      }
      note(node, page, write ? .wrote : .read)
      try check(page)
      try done()
    case .wait: cells[node][page].waiting?.append((write, done))
    case .request(let message):
      cells[node][page].waiting = [(write, done)]
      let home = page % nodeCount
      post(node, home) { [unowned self] in
        homes[page].enqueue(message, from: NodeID(rawValue: UInt8(node)), in: &pool)
        try kick(page)
      }
    }
  }

  private func install(_ node: Int, _ message: PageMessage, _ value: Int?) throws {
    let page = Int(message.page)
    let action = cells[node][page].agent.decide(message)
    guard action == .install else {
      throw Failure(description: "\(message) at node \(node): \(action)")
    }
    if let value { cells[node][page].value = value }
    cells[node][page].agent.install(message)
    note(node, page, message.kind == .dataS ? .gotS : .gotM)
    try check(page)
    let waiting = cells[node][page].waiting ?? []
    cells[node][page].waiting = nil
    for (write, done) in waiting { try access(node, page, write: write, done: done) }
    if let held = cells[node][page].agent.takeHeld(page: message.page) { try revoke(node, held) }
  }

  private func revoke(_ node: Int, _ message: PageMessage) throws {
    let page = Int(message.page)
    let action = cells[node][page].agent.revoked(message)
    let value = cells[node][page].value
    let answer = PageMessage(.acknowledge, page: message.page, gen: message.gen)
    switch action {
    case .acknowledge: acknowledge(node, answer, nil)
    case .drop:
      note(node, page, .dropped, message.gen)
      acknowledge(node, answer, nil)
    case .downgrade, .surrender:
      note(node, page, action == .downgrade ? .downgraded : .dropped, message.gen)
      acknowledge(node, answer, value)
    case .forward(let target):
      note(node, page, .dropped, message.gen)
      let to = Int(target.rawValue)
      post(node, to) { [unowned self] in
        try install(to, PageMessage(.dataM, page: message.page, gen: message.gen), value)
      }
      acknowledge(node, answer, nil)
    case .hold: break
    default: throw Failure(description: "\(message) at node \(node): \(action)")
    }
  }

  private func acknowledge(_ node: Int, _ message: PageMessage, _ value: Int?) {
    let page = Int(message.page)
    var message = message
    message.carriesData = value != nil
    post(node, page % nodeCount) { [unowned self, message] in
      if let value { homeBytes[page] = value }
      let outcome = homes[page].acknowledged(message, from: NodeID(rawValue: UInt8(node)))
      try act(page, outcome)
      if !homes[page].isBusy { at(time) { [unowned self] in try kick(page) } }
    }
  }

  // MARK: - Homes

  private func kick(_ page: Int) throws {
    let me = NodeID(rawValue: UInt8(page % nodeCount))
    guard let outcome = homes[page].next(page: UInt64(page), me: me, manners, in: &pool) else {
      return
    }
    try act(page, outcome)
    if !homes[page].isBusy { at(time) { [unowned self] in try kick(page) } }
  }

  private func act(_ page: Int, _ outcome: PageHome.Outcome) throws {
    switch outcome {
    case .none: return
    case .error(let kind):
      throw Failure(description: "home of page \(page): \(kind), \(homes[page].text)")
    case .send(let step):
      let me = page % nodeCount
      let message = step.message
      let value = message.hasData ? homeBytes[page] : nil
      for node in step.receivers.nodes {
        let to = Int(node.rawValue)
        post(me, to) { [unowned self] in
          if message.isRevocation {
            try revoke(to, message)
          } else {
            try install(to, message, value)
          }
        }
      }
    }
  }

  // MARK: - Invariants

  /// One writer or readers, and every copy is the last value written.
  func check(_ page: Int) throws {
    var writers = 0
    var readers = 0
    for node in 0..<nodeCount {
      let cell = cells[node][page]
      switch cell.agent.state {
      case .invalid: continue
      case .shared: readers += 1
      case .modified: writers += 1
      }
      if cell.value != truth[page] {
        throw Failure(description: "stale page \(page) at node \(node), time \(time)")
      }
    }
    if writers > 1 || writers == 1 && readers > 0 {
      throw Failure(description: "two writers or a writer with readers on page \(page)")
    }
  }

  private func note(
    _ node: Int, _ page: Int, _ event: CoherenceTrace.Event, _ gen: UInt64? = nil
  ) {
    guard isTracing else { return }
    let cell = cells[node][page]
    trace.append(
      CoherenceTrace.Entry(
        time: UInt64(trace.entries.count), node: NodeID(rawValue: UInt8(node)), page: UInt64(page),
        event: event, gen: gen ?? cell.agent.gen, hash: UInt64(cell.value)))
  }

  /// The end: for each page its value and every node's state and, where it has a copy, generation.
  var summary: String {
    (0..<pageCount).map { page in
      let states = (0..<nodeCount).map { node in
        let agent = cells[node][page].agent
        switch agent.state {
        case .invalid: return "I"
        case .shared: return "S\(agent.gen)"
        case .modified: return "M\(agent.gen)"
        }
      }
      return "\(truth[page]):\(homes[page].gen):" + states.joined(separator: ",")
    }.joined(separator: " ")
  }
}
