/// How the host's page cache and flushes are used (`cache.direct`, `cache.no-flush`).
package struct CacheMode: Equatable, Sendable {
  /// Past the page cache (O_DIRECT).
  package var isDirect = false
  /// Flushes are ignored.
  package var ignoresFlushes = false

  package init(isDirect: Bool = false, ignoresFlushes: Bool = false) {
    self.isDirect = isDirect
    self.ignoresFlushes = ignoresFlushes
  }

  /// QEMU's names of combinations (`cache=`), with whether writes may stay in the disk's cache; nil for another word.
  package static func named(_ name: String) -> (mode: CacheMode, isWriteBack: Bool)? {
    switch name {
    case "none", "off": (CacheMode(isDirect: true), true)
    case "directsync": (CacheMode(isDirect: true), false)
    case "writeback": (CacheMode(), true)
    case "unsafe": (CacheMode(ignoresFlushes: true), true)
    case "writethrough": (CacheMode(), false)
    default: nil
    }
  }
}

/// What becomes of zeros that are written (`detect-zeroes`).
package enum ZeroDetection: String, Sendable, CaseIterable {
  case off, on, unmap
}

/// The options that every driver has (`BlockdevOptions`).
package struct NodeSettings: Equatable, Sendable {
  package var isReadOnly = false
  /// Opened for reading where writing is not allowed.
  package var isAutoReadOnly = false
  package var cache = CacheMode()
  /// Discards are passed on (`discard=unmap`).
  package var unmaps = false
  package var detectZeroes = ZeroDetection.off
  /// Others may do anything with the image meanwhile; for reading only.
  package var forceShare = false
  /// The image is looked at: its data will not be read.
  package var metadataOnly = false
  /// Backing files are opened, too; else the image is opened by itself, and what is not in it reads as zeros.
  package var opensBacking = true
  /// For checks and repairs: damaged images are opened as well.
  package var isForChecking = false
  /// The format was guessed: what would make a raw image look like another format may not be written.
  package var isProbed = false

  package init() {}

  /// What a file below a format gets when nothing else is said.
  var forFile: NodeSettings {
    var result = self
    result.unmaps = true
    result.detectZeroes = .off
    result.isProbed = false
    return result
  }

  /// What a backing file gets when nothing else is said.
  var forBacking: NodeSettings {
    var result = self
    result.isReadOnly = true
    result.isAutoReadOnly = false
    result.unmaps = false
    result.detectZeroes = .off
    result.isProbed = false
    return result
  }
}
