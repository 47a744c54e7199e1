/// What every frame between nodes begins with: 32 bytes, little endian (distributed.md, section 2, "Frame").
///
/// | offset | size | field |
/// | --- | --- | --- |
/// | 0 | 2 | magic 0x474C |
/// | 2 | 1 | major version |
/// | 3 | 1 | flags |
/// | 4 | 2 | type |
/// | 6 | 1 | source node |
/// | 7 | 1 | zero |
/// | 8 | 4 | length of the body |
/// | 12 | 4 | request number, 0 for one-way frames |
/// | 16 | 4 | epoch |
/// | 20 | 4 | CRC-32C of the header with this field zero; zero under TLS |
/// | 24 | 8 | argument |
package struct FrameHeader: Equatable, Sendable, BitwiseCopyable {
  /// Bytes of a header.
  package static let size = 32
  package static let magic: UInt16 = 0x474C
  package static let version: UInt8 = 1
  /// Longest body on `mem`: 256 pages and what describes them.
  package static let longestMemBody = (1 << 20) + 4096
  /// Longest body on `ctl`.
  package static let longestCtlBody = 64 << 10

  package var type: FrameType
  package var flags: FrameFlags
  /// Who sends it; set by the transport.
  package var source: NodeID
  /// Bytes that follow; set by the transport from the body.
  package var length: UInt32
  /// Links a reply to its request; set by the transport.
  package var request: UInt32
  /// Incarnation of the cluster; set by the transport, which drops older ones.
  package var epoch: UInt32
  /// Page number, port, vCPU and vector…: what the type says.
  package var argument: UInt64

  /// A frame to send; the transport fills in the rest.
  package init(
    _ type: FrameType, flags: FrameFlags = FrameFlags(rawValue: 0), argument: UInt64 = 0
  ) {
    self.type = type
    self.flags = flags
    self.argument = argument
    source = NodeID(rawValue: 0)
    length = 0
    request = 0
    epoch = 0
  }
}
