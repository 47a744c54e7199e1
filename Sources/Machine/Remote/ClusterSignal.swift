import Cluster
import QAPI

/// What nodes tell each other about the life of the machine: frames of type `machineRequest`. Node 0 decides, the others ask and follow
/// (distributed.md, section 9).
///
/// | bits of the argument | content |
/// | --- | --- |
/// | 0 to 7 | kind |
/// | 8 to 15 | run state, by its place in the schema; of node 0's signals |
/// | 32 to 63 | number of the operation, of the hold, of what was asked, a vCPU, or a status |
struct ClusterSignal: Equatable {
  enum Kind: UInt8 {
    // To node 0
    /// The machine is made; maps and operations may come.
    case ready = 1
    case askStop = 2
    case askContinue = 3
    case askReset = 4
    case askPowerDown = 5
    case askWakeUp = 6
    /// `number`: the cause, by its place in the schema.
    case askQuit = 7
    case askNMI = 8
    /// `number`: the vCPU, which stands until `released`.
    case tripleFault = 9
    case debugStop = 10
    /// The body says why.
    case failure = 11
    /// `number`: the operation. The body: virtual time at which the node stands.
    case done = 12
    // From node 0
    /// vCPUs stand, virtual time too.
    case pause = 20
    /// vCPUs and virtual time go on. The body: `ClusterTime`.
    case resume = 21
    /// vCPUs and local APICs as after power-on. The body: `ResetState`.
    case reset = 22
    /// The process ends. `number`: status.
    case exit = 23
    /// The hold of that number, which came with the answer to a device access, is over.
    case holdOver = 24
    /// The vCPU of that number, which had a triple fault or the like, may go on.
    case released = 25
    /// Only the run state has changed.
    case state = 26
    /// The guest's life is over, or the process's is about to be: every node tells its own monitors, before `exit`. `number`: the
    /// cause, by its place in the schema.
    case shutdown = 27
    /// Is the node there, and does it stand? It answers with `done`.
    case prepare = 28
    /// What the node has asked for, by the `number` that it gave it, is done; or why it is not: the body.
    case answered = 29
    // Between any two nodes
    /// Everything that the sender had sent before it stood for that operation has arrived.
    case marker = 30
  }

  var kind: Kind
  var state: RunState = .prelaunch
  var number: UInt32 = 0

  init(_ kind: Kind, state: RunState = .prelaunch, number: UInt32 = 0) {
    self.kind = kind
    self.state = state
    self.number = number
  }

  /// Nil when the argument is no signal.
  init?(_ argument: UInt64) {
    guard let kind = Kind(rawValue: UInt8(truncatingIfNeeded: argument)) else { return nil }
    let states = RunState.allCases
    let index = Int(argument >> 8 & 0xFF)
    guard states.indices.contains(index), argument >> 16 & 0xFFFF == 0 else { return nil }
    self.kind = kind
    state = states[index]
    number = UInt32(truncatingIfNeeded: argument >> 32)
  }

  var argument: UInt64 {
    UInt64(kind.rawValue) | UInt64(RunState.allCases.firstIndex(of: state) ?? 0) << 8
      | UInt64(number) << 32
  }
}

/// When and how time goes on: the body of `resume`. All 64 bits each.
struct ClusterTime: Equatable {
  /// Virtual time at which the machine stood.
  var standing: Int64
  /// Cluster time at which virtual time was zero, from now on.
  var origin: Int64
  /// Guest TSC minus host TSC of node 0, and what tells its host from others; 0: it is not known.
  var counterOffset: UInt64
  var host: UInt64
  /// The guest's TSC at a moment of cluster time: for nodes on other hosts.
  var counter: UInt64
  var moment: Int64

  static let size = 48

  var bytes: [UInt8] {
    var bytes: [UInt8] = []
    for word in [
      UInt64(bitPattern: standing), UInt64(bitPattern: origin), counterOffset, host, counter,
      UInt64(bitPattern: moment),
    ] { bytes.append64(word) }
    return bytes
  }

  init(
    standing: Int64, origin: Int64, counterOffset: UInt64, host: UInt64, counter: UInt64,
    moment: Int64
  ) {
    self.standing = standing
    self.origin = origin
    self.counterOffset = counterOffset
    self.host = host
    self.counter = counter
    self.moment = moment
  }

  init?(_ bytes: [UInt8]) {
    guard bytes.count == ClusterTime.size else { return nil }
    let reader = LittleEndian(bytes)
    standing = Int64(bitPattern: reader.u64(0))
    origin = Int64(bitPattern: reader.u64(8))
    counterOffset = reader.u64(16)
    host = reader.u64(24)
    counter = reader.u64(32)
    moment = Int64(bitPattern: reader.u64(40))
    guard standing >= 0 else { return nil }
  }
}
