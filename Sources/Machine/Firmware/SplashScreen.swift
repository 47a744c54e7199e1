import Host

/// `-boot splash=`: a picture that firmware shows, under the name by which firmware knows its format.
enum SplashScreen {
  /// Reads the picture. Throws `BootError` when it cannot be read or is neither JPEG nor a BMP of 24 bits a pixel.
  static func file(
    _ path: String, directories: [String]
  ) throws(BootError) -> BootPlan.ConfigurationFile {
    let folders = path.contains("/") ? [] : directories + BootFile.firmwareDirectories
    for candidate in [path] + folders.map({ $0 + "/" + path }) {
      guard let bytes = try? FileDescriptor.contents(of: candidate) else { continue }
      return BootPlan.ConfigurationFile(try name(bytes, path), bytes)
    }
    throw BootError(.unreadable, "failed to find file '\(path)'")
  }

  private static func name(_ bytes: [UInt8], _ path: String) throws(BootError) -> String {
    let reader = LittleEndian(bytes)
    switch reader.u16(0) {
    case 0xD8FF: return "bootsplash.jpg"
    case 0x4D42 where reader.u16(28) == 24: return "bootsplash.bmp"
    default:
      throw BootError(
        .malformed,
        "splash file '\(path)' format not recognized; must be JPEG or 24 bit BMP")
    }
  }
}
