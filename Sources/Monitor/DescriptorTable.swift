package import Host

/// File descriptors that monitor clients passed to the process, by the names they gave them (`getfd`).
/// They stay when the client leaves, until something takes them.
@MainLoop
package final class DescriptorTable {
  private var numbers: [String: Int32] = [:]

  init() {}

  /// Keeps an open descriptor; one of the same name is closed.
  func keep(_ descriptor: Int32, as name: String) {
    if let old = numbers.updateValue(descriptor, forKey: name) {
      FileDescriptor(owning: old).close()
    }
  }

  /// Gives a descriptor away; the caller closes it. Nil when there is none of that name.
  package func take(_ name: String) -> Int32? { numbers.removeValue(forKey: name) }
}
