package import Cluster

/// A message of the page protocol, about one page (distributed.md, section 4, "mem: pages"). Frames carry many at a time (`PageFrame`).
package struct PageMessage: Equatable, Sendable, BitwiseCopyable {
  /// What is said. Raw values are positions in the state tables' reports, not on the wire.
  package enum Kind: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    /// A node wants to read.
    case getS
    /// A node wants to write; `dep` is the generation of the readable copy that it holds, or `noGeneration`.
    case getM
    /// A readable copy.
    case dataS
    /// A writable copy; nobody else has one.
    case dataM
    /// The receiver's readable copy is now writable.
    case grant
    /// To the owner: keep a readable copy, return the data.
    case fetchS
    /// To the owner: give the page up, return the data.
    case fetchM
    /// To the owner: give the page up, send the data to `target`.
    case forwardM
    /// To a sharer: drop the copy.
    case invalidate
    /// To the home: a revocation has been obeyed.
    case acknowledge
    /// To the home, from the owner: please take it back.
    case put
    /// A readable copy that nobody asked for.
    case push
  }

  /// No copy: what `dep` of `getM` says then.
  package static let noGeneration = UInt64.max

  package var kind: Kind
  /// `acknowledge`: the page's bytes come with it.
  package var carriesData: Bool
  /// `dataS`, `dataM`: the page's bytes are lost for good, this is all there is to say.
  package var isLost: Bool
  /// `forwardM`: who gets the page.
  package var target: NodeID
  /// The page, by its place in RAM.
  package var page: UInt64
  /// The home's number of the transaction that this belongs to.
  package var gen: UInt64
  /// Revocations: the generation under which the owner got the page (for `invalidate`: that of the last write). `getM`: what is held.
  package var dep: UInt64

  package init(
    _ kind: Kind, page: UInt64, gen: UInt64 = 0, dep: UInt64 = 0,
    target: NodeID = NodeID(rawValue: 0), carriesData: Bool = false
  ) {
    self.kind = kind
    self.page = page
    self.gen = gen
    self.dep = dep
    self.target = target
    self.carriesData = carriesData
    isLost = false
  }

  /// It takes a copy away from the node that gets it.
  package var isRevocation: Bool {
    switch kind {
    case .fetchS, .fetchM, .forwardM, .invalidate: true
    default: false
    }
  }

  /// It goes to the page's home.
  package var isForHome: Bool {
    switch kind {
    case .getS, .getM, .acknowledge, .put: true
    default: false
    }
  }

  /// Page bytes belong to it.
  package var hasData: Bool {
    switch kind {
    case .dataS, .dataM, .push: true
    case .acknowledge: carriesData
    default: false
    }
  }
}

/// A message that the state tables do not allow. It freezes the cluster (distributed.md, section 5, "error").
package struct PageProtocolError: Error, Equatable, Sendable {
  /// What is wrong.
  package enum Kind: String, Sendable {
    /// The requester's table has "error" in this cell.
    case unexpected
    /// The message's generation is below the state's.
    case oldGeneration
    /// It names a generation that this node does not hold.
    case wrongGeneration
    /// A second revocation while one is held.
    case heldTwice
    /// The owner asks for its own page.
    case ownerAsks
    /// A second request of one node for the page.
    case requestedTwice
    /// An acknowledgement that nobody waits for, or with data where none belongs, or without.
    case acknowledgement
    /// The page is not there, or its home is another node, or the frame is malformed.
    case malformed
  }
  package var kind: Kind
  /// From whom.
  package var node: NodeID
  package var message: PageMessage
  /// State of the page when it came, for people.
  package var state: String

  package init(_ kind: Kind, _ message: PageMessage, from node: NodeID, state: String) {
    self.kind = kind
    self.message = message
    self.node = node
    self.state = state
  }
}
