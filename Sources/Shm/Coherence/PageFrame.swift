package import Cluster

/// How messages of the page protocol look in a frame: those of one kind for pages of one group of 64, in one body.
///
/// The header's argument is the group's first page. The body (little endian):
///
/// | offset | size | field |
/// | --- | --- | --- |
/// | 0 | 8 | which pages of the group, by bit; not 0 |
/// | 8 | 8 | those whose bytes are all zero and do not follow |
/// | 16 | 1 | for `forwardM`: the node that gets the pages |
/// | 17 | 1 | 1: data belongs to it (`acknowledge`); 2: the pages are lost (`dataS`, `dataM`) |
/// | 18 | 6 | zero |
/// | 24 | 16 each | for each page, by number: generation, `dep` |
/// | | 4096 each | bytes of the pages that are not zero, by number, where data belongs to the kind |
package struct PageFrame: Equatable, Sendable {
  /// Pages of a group.
  package static let groupPages: UInt64 = 64
  static let fixedSize = 24
  static let eachSize = 16
  static let headSize = fixedSize + eachSize
  /// Most bytes before the pages' own.
  static let descriptionSize = fixedSize + eachSize * Int(groupPages)

  package var kind: PageMessage.Kind
  package var carriesData: Bool
  package var isLost: Bool
  package var target: NodeID
  /// The group's first page.
  package var first: UInt64
  package var pages: UInt64
  package var zeros: UInt64

  /// The frame type of a kind, which says the same.
  package static func type(_ kind: PageMessage.Kind) -> FrameType {
    switch kind {
    case .getS: .getS
    case .getM: .getM
    case .dataS: .dataS
    case .dataM: .dataM
    case .grant: .grant
    case .fetchS: .fetchS
    case .fetchM: .fetchM
    case .forwardM: .forwardM
    case .invalidate: .invalidate
    case .acknowledge: .acknowledge
    case .put: .put
    case .push: .push
    }
  }

  /// The kind of a frame type; nil for other frames.
  package static func kind(_ type: FrameType) -> PageMessage.Kind? {
    switch type {
    case .getS: .getS
    case .getM: .getM
    case .dataS: .dataS
    case .dataM: .dataM
    case .grant: .grant
    case .fetchS: .fetchS
    case .fetchM: .fetchM
    case .forwardM: .forwardM
    case .invalidate: .invalidate
    case .acknowledge: .acknowledge
    case .put: .put
    case .push: .push
    default: nil
    }
  }

  /// Frame types of the page protocol.
  package static let types: [FrameType] = PageMessage.Kind.allCases.map(type)

  /// Page bytes follow for the pages that are not zero.
  package var hasData: Bool {
    !isLost
      && PageMessage(kind, page: first, carriesData: carriesData).hasData
  }

  /// A frame that begins with `message`.
  init(_ message: PageMessage) {
    kind = message.kind
    carriesData = message.carriesData
    isLost = message.isLost
    target = message.target
    first = message.page & ~(PageFrame.groupPages - 1)
    pages = 1 << (message.page % PageFrame.groupPages)
    zeros = 0
  }

  /// Takes another message in, if it says the same of another page of the group.
  mutating func merge(_ message: PageMessage) -> Bool {
    let bit: UInt64 = 1 << (message.page % PageFrame.groupPages)
    guard message.kind == kind, message.target == target, message.carriesData == carriesData,
      message.isLost == isLost, message.page & ~(PageFrame.groupPages - 1) == first,
      pages & bit == 0
    else { return false }
    pages |= bit
    return true
  }

  /// Reads the head of a body, whose first 40 bytes are in `head`, for a memory of so many pages and a cluster of so many nodes; nil when
  /// it is malformed.
  @unsafe static func parse(
    _ header: FrameHeader, head: UnsafeMutableRawPointer, pageCount: UInt64, nodeCount: Int
  ) -> PageFrame? {
    guard let kind = kind(header.type) else { return nil }
    // SAFETY: the first 40 bytes, as the caller says.
    let pages = unsafe UInt64(littleEndian: head.load(as: UInt64.self))
    let zeros = unsafe UInt64(littleEndian: head.load(fromByteOffset: 8, as: UInt64.self))
    let target = unsafe head.load(fromByteOffset: 16, as: UInt8.self)
    let bits = unsafe head.load(fromByteOffset: 17, as: UInt8.self)
    let first = header.argument
    guard first % groupPages == 0, first < pageCount, pages != 0,
      UInt64(63 - pages.leadingZeroBitCount) < pageCount - first, zeros & ~pages == 0,
      Int(target) < nodeCount, kind == .forwardM || target == 0, bits <= 2,
      bits != 1 || kind == .acknowledge, bits != 2 || kind == .dataS || kind == .dataM
    else { return nil }
    var frame = PageFrame(PageMessage(kind, page: first, target: NodeID(rawValue: target)))
    frame.pages = pages
    frame.zeros = zeros
    frame.carriesData = bits == 1
    frame.isLost = bits == 2
    if !frame.hasData, zeros != 0 { return nil }
    let count = pages.nonzeroBitCount
    let data = frame.hasData ? (pages & ~zeros).nonzeroBitCount * Int(GuestAddress.pageSize) : 0
    guard Int(header.length) == fixedSize + count * eachSize + data else { return nil }
    return frame
  }

  // SAFETY (all below): a buffer of `descriptionSize` bytes, aligned; `place` is below 64.

  /// The message about the page of bit `bit`, the `place`th one.
  @unsafe func message(
    _ bit: Int, place: Int, _ description: UnsafeMutableRawPointer
  ) -> PageMessage {
    let at = unsafe description + PageFrame.fixedSize + (place & 63) * PageFrame.eachSize
    var message = unsafe PageMessage(
      kind, page: first + UInt64(bit), gen: UInt64(littleEndian: at.load(as: UInt64.self)),
      dep: UInt64(littleEndian: at.load(fromByteOffset: 8, as: UInt64.self)), target: target,
      carriesData: carriesData)
    message.isLost = isLost
    return message
  }

  /// Writes everything but the pages' descriptions.
  @unsafe func encode(into description: UnsafeMutableRawPointer) {
    let last = UInt64(target.rawValue) | (isLost ? 2 : carriesData ? 1 : 0) << 8
    unsafe description.storeBytes(of: pages.littleEndian, as: UInt64.self)
    unsafe description.storeBytes(of: zeros.littleEndian, toByteOffset: 8, as: UInt64.self)
    unsafe description.storeBytes(of: last.littleEndian, toByteOffset: 16, as: UInt64.self)
  }

  /// Writes the description of one page, the `place`th one by number.
  @unsafe static func encode(
    _ message: PageMessage, place: Int, into description: UnsafeMutableRawPointer
  ) {
    let at = unsafe description + fixedSize + (place & 63) * eachSize
    unsafe at.storeBytes(of: message.gen.littleEndian, as: UInt64.self)
    unsafe at.storeBytes(of: message.dep.littleEndian, toByteOffset: 8, as: UInt64.self)
  }
}
