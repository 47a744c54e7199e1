import Host
import JSON
package import QAPI

/// An authorisation list in a JSON file (QEMU's type `authz-list-file`), read again when it has changed.
package struct AuthorizationFile: Authorization {
  /// The path.
  package let filename: String
  /// Whether changes of the file count.
  package let refreshes: Bool
  private var list: AuthorizationList
  private var version: [Int64]?

  /// The most bytes of the file.
  package static let sizeLimit = 1 << 22

  /// Reads the file. Throws `QAPIError`.
  package init(_ properties: AuthZListFileProperties) throws(QAPIError) {
    filename = properties.filename
    refreshes = properties.refresh ?? true
    // Before the content: a change in between is seen the next time.
    version = FileNames.version(of: filename)
    list = try AuthorizationFile.read(filename)
  }

  /// After a change that left no readable list nobody is let in, until the next change. Throws `QAPIError` then.
  package mutating func allows(_ name: String) throws(QAPIError) -> Bool {
    if refreshes {
      let now = FileNames.version(of: filename)
      if now != version {
        list = AuthorizationList(AuthZListProperties())
        version = nil
        list = try AuthorizationFile.read(filename)
        version = now
      }
    }
    return list.allows(name)
  }

  private static func read(_ path: String) throws(QAPIError) -> AuthorizationList {
    let text: [UInt8]
    do throws(SystemError) {
      text = try FileDescriptor.contents(of: path, limit: sizeLimit)
    } catch {
      throw QAPIError(
        "Unable to read '\(path)': Failed to open file “\(path)”: \(error.reason)")
    }
    let value: JSONValue
    do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
      throw QAPIError("Unable to parse '\(path)': \(error.text)")
    }
    guard case .object = value else {
      throw QAPIError("File '\(path)' must contain a JSON object")
    }
    return AuthorizationList(try AuthZListProperties(decoding: value, at: .json))
  }
}
