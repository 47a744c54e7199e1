import Glibc
import Host

extension BootFile {
  /// Reads a file. Throws `unreadable` with the system's reason, or `tooLarge` above `limit` bytes; `purpose` is what the sentence
  /// calls it: `kernel`, `initrd`.
  package static func read(
    _ path: String, as purpose: String, limit: Int = Int.max
  ) throws(BootError) -> BootFile {
    do {
      return BootFile(name: path, bytes: try FileDescriptor.contents(of: path, limit: limit))
    } catch  where error.code == EFBIG {
      throw BootError(
        .tooLarge,
        "could not load \(purpose) '\(path)': it has more than \(limit >> 20) MiB")
    } catch {
      throw BootError(.unreadable, "could not load \(purpose) '\(path)': \(error.reason)")
    }
  }

  /// Finds a firmware image: a path as it is, else a name in `directories` (those of `-L`) and then where distributions put firmware.
  package static func firmware(
    _ name: String = defaultFirmware, directories: [String] = []
  ) throws(BootError) -> BootFile {
    let others =
      name.contains("/") ? [] : (directories + firmwareDirectories).map { $0 + "/" + name }
    for path in [name] + others {
      do {
        return BootFile(
          name: path, bytes: try FileDescriptor.contents(of: path, limit: largestFirmwareFile))
      } catch  where error.code == ENOENT || error.code == ENOTDIR {
        continue
      } catch {
        throw BootError(.unreadable, "could not load PC BIOS '\(path)': \(error.reason)")
      }
    }
    throw BootError(.unreadable, "could not find PC BIOS '\(name)'")
  }

  /// Reads an expansion ROM: a path, else a name where distributions put them. Throws with QEMU's sentences.
  static func expansionROM(_ name: String) throws(BootError) -> BootFile {
    let others = name.contains("/") ? [] : romDirectories.map { $0 + "/" + name }
    for path in [name] + others {
      do {
        let bytes = try FileDescriptor.contents(of: path, limit: largestFirmwareFile)
        if bytes.isEmpty { throw BootError(.unreadable, "romfile \"\(path)\" is empty") }
        return BootFile(name: path, bytes: bytes)
      } catch let error as BootError {
        throw error
      } catch {
        if (error as? SystemError)?.code == EFBIG {
          throw BootError(
            .tooLarge,
            "romfile \"\(path)\" too large (size cannot exceed \(largestFirmwareFile >> 20) MiB)")
        }
      }
    }
    throw BootError(.unreadable, "failed to find romfile \"\(name)\"")
  }

  private static let romDirectories = [
    "/usr/share/seabios", "/usr/share/qemu", "/usr/lib/ipxe/qemu",
  ]

  /// Larger files are not read to find out what they are.
  private static let largestFirmwareFile = 64 << 20

  package static let defaultFirmware = "bios-256k.bin"

  /// Debian's package `seabios`, then QEMU's own folder.
  package static let firmwareDirectories = ["/usr/share/seabios", "/usr/share/qemu"]
}
