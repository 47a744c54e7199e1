/// Which of the two connections between a pair of nodes carries a frame (distributed.md, section 2).
package enum StreamKind: UInt8, Sendable, CaseIterable {
  /// Membership, heartbeats, interrupts, device accesses, control: small frames that never queue behind pages.
  case ctl = 0
  /// Page requests, revocations, page data.
  case mem = 1
}

/// What a frame is (distributed.md, section 4). Numbers below 0x80 go on `ctl`, the others on `mem`.
package enum FrameType: UInt16, Sendable, CaseIterable, BitwiseCopyable {
  // Cluster
  case hello = 0x01
  case config = 0x02
  case configOK = 0x03
  case configDiff = 0x04
  case ready = 0x05
  case start = 0x06
  case heartbeat = 0x07
  case time = 0x08
  case prepare = 0x09
  case prepared = 0x0A
  case commit = 0x0B
  case committed = 0x0C
  case abort = 0x0D
  case nodeLost = 0x0E
  case goodbye = 0x0F
  case error = 0x10
  case qmpProxy = 0x11
  /// An event of a node for the monitors of the others.
  case event = 0x12
  /// Marks the end of what was sent before a two-phase operation, on both streams' account.
  case marker = 0x13
  // Machine
  case portRead = 0x20
  case portWrite = 0x21
  case memoryRead = 0x22
  case memoryWrite = 0x23
  case doorbell = 0x24
  case interrupt = 0x25
  case interprocessor = 0x26
  case nmi = 0x27
  case endOfInterrupt = 0x28
  case apicConfiguration = 0x29
  case picAcknowledge = 0x2A
  case chipset = 0x2B
  case cpuPark = 0x2C
  case cpuState = 0x2D
  /// A line of a device on node 0 that ends at a local APIC of another (LINT0 of vCPU 0).
  case line = 0x2E
  /// Shared-memory mode: decoded code of these pages is to be thrown away.
  case codeWrite = 0x2F
  /// A request of a vCPU's device access that concerns the whole machine: triple fault, reset, power-off.
  case machineRequest = 0x30
  // Pages
  case getS = 0x80
  case getM = 0x81
  case dataS = 0x82
  case dataM = 0x83
  case grant = 0x84
  case fetchS = 0x85
  case fetchM = 0x86
  case forwardM = 0x87
  case invalidate = 0x88
  case acknowledge = 0x89
  case put = 0x8A
  case push = 0x8B
  case remoteOperation = 0x8C
  case memMarker = 0x8D
  /// After a loss: pages that a node has, for their homes.
  case pageClaims = 0x8E
  /// After a loss: what homes say of them.
  case pageVerdicts = 0x8F

  /// The connection that carries it.
  package var stream: StreamKind { rawValue < 0x80 ? .ctl : .mem }
}

/// Flags of a frame (distributed.md, section 2).
package struct FrameFlags: OptionSet, Sendable, BitwiseCopyable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Answers the request of the same number.
  package static let reply = FrameFlags(rawValue: 1)
  /// A reply that says why not; its body is text.
  package static let error = FrameFlags(rawValue: 2)
  /// More frames of the same answer follow.
  package static let more = FrameFlags(rawValue: 4)
  /// The page is all zero and has no body.
  package static let zeroPage = FrameFlags(rawValue: 8)
  /// A receiver that does not know the type passes over it.
  package static let errorOK = FrameFlags(rawValue: 64)
}
