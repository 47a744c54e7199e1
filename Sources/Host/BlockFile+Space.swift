import CLinux
import Glibc

extension BlockFile {
  /// What a stretch of a file is.
  package struct Extent: Equatable, Sendable {
    package let isHole: Bool
    package let length: UInt64
  }

  /// Whether there is data or a hole at `offset`, and how far, at most `count` bytes. Where the file system cannot tell, all is data.
  /// `count` is positive and within the file.
  package func extent(_ offset: UInt64, _ count: UInt64) -> Extent {
    guard kind == .regular, let start = Int64(exactly: offset) else {
      return Extent(isHole: false, length: count)
    }
    let data = goliath_seek_data(rawDescriptor, start)
    if data == -Int64(ENXIO) {
      // A hole up to the end, or beyond it.
      return Extent(isHole: true, length: count)
    }
    guard data >= start else { return Extent(isHole: false, length: count) }
    if data > start {
      return Extent(isHole: true, length: min(count, UInt64(data - start)))
    }
    let hole = goliath_seek_hole(rawDescriptor, start)
    guard hole > start else { return Extent(isHole: false, length: count) }
    return Extent(isHole: false, length: min(count, UInt64(hole - start)))
  }

  /// Makes a range read as zeros without writing them; false when the file system or the device cannot. A file grows.
  /// With `mayUnmap` the space may be given back. Throws `SystemError` for failures like a full disk.
  package func zero(
    _ offset: UInt64, _ count: UInt64, mayUnmap: Bool
  ) throws(SystemError) -> Bool {
    guard count > 0 else { return true }
    let start = try BlockFile.checked(offset, count)
    let length = Int64(count)
    if kind == .blockDevice {
      guard (offset | count) % UInt64(sectorSize) == 0 else { return false }
      return try BlockFile.worked(
        goliath_device_zero(rawDescriptor, offset, count), "ioctl(BLKZEROOUT)")
    }
    guard kind == .regular else { return false }
    let end = offset + count
    if mayUnmap,
      try BlockFile.worked(
        goliath_allocate(rawDescriptor, GOLIATH_PUNCH_HOLE, start, length), "fallocate")
    {
      if end > self.length, end > (try refreshLength()) { try resize(to: end) }
      return true
    }
    if try BlockFile.worked(
      goliath_allocate(rawDescriptor, GOLIATH_ZERO_RANGE, start, length), "fallocate")
    {
      noteLength(atLeast: end)
      return true
    }
    // Where there is nothing yet, allocating is enough; elsewhere the old content goes first.
    if offset < (try refreshLength()) {
      guard
        try BlockFile.worked(
          goliath_allocate(rawDescriptor, GOLIATH_PUNCH_HOLE, start, length), "fallocate")
      else { return false }
    }
    guard
      try BlockFile.worked(
        goliath_allocate(rawDescriptor, GOLIATH_ALLOCATE, start, length), "fallocate")
    else { return false }
    noteLength(atLeast: end)
    return true
  }

  /// Gives the space of a range back; false when that cannot be done here. Throws `SystemError`.
  package func discard(_ offset: UInt64, _ count: UInt64) throws(SystemError) -> Bool {
    guard count > 0 else { return true }
    let start = try BlockFile.checked(offset, count)
    switch kind {
    case .blockDevice:
      // Only whole sectors: what is left keeps its content, which callers cannot rely on anyway.
      let unit = UInt64(sectorSize)
      let first = (offset + unit - 1) / unit * unit
      let end = (offset + count) / unit * unit
      guard end > first else { return true }
      return try BlockFile.worked(
        goliath_device_discard(rawDescriptor, first, end - first), "ioctl(BLKDISCARD)")
    case .regular:
      return try BlockFile.worked(
        goliath_allocate(rawDescriptor, GOLIATH_PUNCH_HOLE, start, Int64(count)), "fallocate")
    default: return false
    }
  }

  /// Allocates the space of a range, which may lie beyond the end (fallocate(2)). Throws `SystemError`.
  package func allocate(_ offset: UInt64, _ count: UInt64) throws(SystemError) {
    guard count > 0 else { return }
    let start = try BlockFile.checked(offset, count)
    let code = goliath_allocate(rawDescriptor, GOLIATH_ALLOCATE, start, Int64(count))
    if code < 0 { throw SystemError(call: "fallocate", code: -code) }
    noteLength(atLeast: offset + count)
  }

  /// Cuts or extends a regular file (ftruncate(2)). Throws `SystemError`.
  package func resize(to length: UInt64) throws(SystemError) {
    let size = off_t(try BlockFile.checked(length, 0))
    let descriptor = rawDescriptor
    try SystemError.check("ftruncate") { () -> Int32 in ftruncate(descriptor, size) }
    setLength(length)
  }

  /// Bytes that the file takes in its file system; 0 for devices.
  package var allocatedSize: UInt64? {
    var status = stat()
    // SAFETY: `status` outlives the call.
    guard unsafe fstat(rawDescriptor, &status) == 0 else { return nil }
    return UInt64(max(0, status.st_blocks)) * 512
  }

  /// What takes the fastest to transfer at once, in the file system's opinion.
  package var preferredSize: Int {
    var status = stat()
    // SAFETY: `status` outlives the call.
    return unsafe fstat(rawDescriptor, &status) == 0 ? Int(status.st_blksize) : 4096
  }

  /// The unit of a block device's requests; 512 for anything else.
  package var sectorSize: Int {
    var bytes: UInt32 = 0
    // SAFETY: a local.
    guard kind == .blockDevice, unsafe goliath_device_sector(rawDescriptor, &bytes) == 0,
      bytes > 0
    else { return 512 }
    return Int(bytes)
  }

  /// Copies a range within the kernel, perhaps sharing the blocks (copy_file_range(2)). Answers how many bytes, fewer than asked for at the end of the
  /// source; 0 also where it cannot be done. Throws `SystemError` for failures such as a full disk.
  package func copy(
    _ offset: UInt64, _ count: UInt64, to target: BlockFile, at place: UInt64
  ) throws(SystemError) -> UInt64 {
    let from = try BlockFile.checked(offset, count)
    let to = try BlockFile.checked(place, count)
    let done = goliath_copy_range(rawDescriptor, from, target.rawDescriptor, to, count)
    if done > 0 {
      target.noteLength(atLeast: place + UInt64(done))
      return UInt64(done)
    }
    if done == -Int64(ENOSPC) || done == -Int64(EIO) || done == -Int64(EDQUOT) {
      throw SystemError(call: "copy_file_range", code: Int32(-done))
    }
    return 0
  }

  /// Whether a drive with removable media has one; nil when it cannot tell.
  package var hasMedium: Bool? {
    let answer = goliath_medium_present(rawDescriptor)
    return answer < 0 ? nil : answer == 1
  }

  /// Removes a file. Throws `SystemError`.
  package static func remove(_ path: String) throws(SystemError) {
    // SAFETY: the string lives through the call.
    try SystemError.check("unlink") { () -> Int32 in unsafe unlink(path) }
  }

  /// Makes an empty file of a name of its own in the folder for large temporary files (`TMPDIR`, else /var/tmp). Answers its path. Throws `SystemError`.
  package static func makeTemporary() throws(SystemError) -> String {
    // SAFETY: the environment is not changed by this process; the string is copied at once.
    let folder = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/var/tmp"
    var template = Array("\(folder)/vl.\(String(repeating: "X", count: 6))".utf8CString)
    // SAFETY: the array is writable and ends in a zero.
    let descriptor = unsafe goliath_temporary_file(&template)
    if descriptor < 0 { throw SystemError(call: "mkostemp", code: -descriptor) }
    Glibc.close(descriptor)
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// False where the call is not supported. Throws `SystemError` for other failures.
  private static func worked(_ code: Int32, _ call: String) throws(SystemError) -> Bool {
    switch -code {
    case 0: return true
    case EOPNOTSUPP, ENOSYS, EINVAL, ENOTTY, ENODEV, EPERM, ETXTBSY: return false
    default: throw SystemError(call: call, code: -code)
    }
  }
}

/// What kind of file a path names.
package enum PathKind: Sendable {
  case missing, regular, device, folder, other

  package static func of(_ path: String) -> PathKind {
    var status = stat()
    // SAFETY: the string and `status` live through the call.
    guard unsafe stat(path, &status) == 0 else { return .missing }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return .regular
    case S_IFBLK, S_IFCHR: return .device
    case S_IFDIR: return .folder
    default: return .other
    }
  }
}
