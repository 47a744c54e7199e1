package import Cluster

/// What nodes did with pages, in the order of time, and whether that could have happened in one memory (distributed.md, section 15, "trace
/// checker").
///
/// Times are the cluster's clock, or any counter that all nodes share; entries of one time keep the order in which they came.
package struct CoherenceTrace: Sendable {
  /// What happened.
  package enum Event: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    /// The node may read from now on.
    case gotS
    /// The node may write from now on.
    case gotM
    /// The node may no longer write.
    case downgraded
    /// The node may no longer read.
    case dropped
    case read
    case wrote
  }

  package struct Entry: Equatable, Sendable, BitwiseCopyable {
    package var time: UInt64
    package var node: NodeID
    package var page: UInt64
    package var event: Event
    /// The generation of the node's copy; of the transaction, for what takes a copy away.
    package var gen: UInt64
    /// Of the page's bytes after the event; without meaning for `dropped`.
    package var hash: UInt64

    package init(
      time: UInt64, node: NodeID, page: UInt64, event: Event, gen: UInt64, hash: UInt64
    ) {
      self.time = time
      self.node = node
      self.page = page
      self.event = event
      self.gen = gen
      self.hash = hash
    }
  }

  /// The first thing that cannot have happened.
  package struct Violation: Error, Equatable, Sendable, CustomStringConvertible {
    /// Which rule (distributed.md, section 5, "Invariants").
    package enum Rule: String, Sendable {
      case singleWriter = "a node writes while another has a copy"
      case lastWrite = "a copy is not the last write"
      case noRight = "an access without the right"
      case generation = "a generation that goes backwards"
    }
    package var rule: Rule
    package var entry: Entry
    package init(_ rule: Rule, _ entry: Entry) {
      self.rule = rule
      self.entry = entry
    }
    package var description: String {
      "\(rule.rawValue): page \(entry.page), \(entry.event) at \(entry.node), time \(entry.time), "
        + "generation \(entry.gen)"
    }
  }

  package private(set) var entries: [Entry] = []

  package init(_ entries: [Entry] = []) { self.entries = entries }

  package mutating func append(_ entry: Entry) { entries.append(entry) }

  /// Adds another node's log.
  package mutating func merge(_ other: CoherenceTrace) { entries += other.entries }

  /// What the checker knows of a page.
  private struct Page {
    var writer: NodeID?
    var readers: NodeSet = []
    /// Of the last write; nil until somebody has told it.
    var hash: UInt64?
    /// The last transaction that each node took part in.
    var gens: [NodeID: UInt64] = [:]
    /// The transaction by which each node got its copy.
    var copies: [NodeID: UInt64] = [:]
    /// Of the last writer's copy.
    var writeGen: UInt64 = 0
  }

  /// Replays the log against one memory; nil when all of it is as it must be. `owner`: who may write a page at the start.
  package func firstViolation(owner: (UInt64) -> NodeID) -> Violation? {
    var pages: [UInt64: Page] = [:]
    let order = entries.indices.sorted {
      entries[$0].time != entries[$1].time ? entries[$0].time < entries[$1].time : $0 < $1
    }
    for index in order {
      let entry = entries[index]
      var page = pages[entry.page] ?? Page(writer: owner(entry.page))
      if let rule = CoherenceTrace.replay(entry, &page) { return Violation(rule, entry) }
      pages[entry.page] = page
    }
    return nil
  }

  private static func replay(_ entry: Entry, _ page: inout Page) -> Violation.Rule? {
    let node = entry.node
    let isAccess = entry.event == .read || entry.event == .wrote
    if !isAccess {
      if entry.gen < page.gens[node] ?? 0 { return .generation }
      page.gens[node] = entry.gen
    }
    if entry.event == .gotS || entry.event == .gotM { page.copies[node] = entry.gen }
    switch entry.event {
    case .gotS:
      if page.writer != nil { return .singleWriter }
      if entry.gen < page.writeGen { return .generation }
      if page.hash.map({ $0 != entry.hash }) ?? false { return .lastWrite }
      page.hash = entry.hash
      page.readers.insert(NodeSet(node))
    case .gotM:
      page.readers.remove(NodeSet(node))
      if page.writer != nil || !page.readers.isEmpty { return .singleWriter }
      if entry.gen < page.writeGen { return .generation }
      if page.hash.map({ $0 != entry.hash }) ?? false { return .lastWrite }
      page.hash = entry.hash
      page.writer = node
      page.writeGen = entry.gen
    case .downgraded:
      if page.writer != node { return .noRight }
      if page.hash.map({ $0 != entry.hash }) ?? false { return .lastWrite }
      page.hash = entry.hash
      page.writer = nil
      page.readers.insert(NodeSet(node))
    case .dropped:
      if page.writer == node { page.writer = nil }
      page.readers.remove(NodeSet(node))
    case .read:
      if page.writer != node, !page.readers.contains(node) { return .noRight }
      if page.hash.map({ $0 != entry.hash }) ?? false { return .lastWrite }
      page.hash = entry.hash
      if entry.gen != page.copies[node] ?? 0 { return .generation }
    case .wrote:
      if page.writer != node { return .noRight }
      if entry.gen != page.copies[node] ?? 0 { return .generation }
      page.hash = entry.hash
    }
    return nil
  }
}
