/// The order in which QEMU lists what it keeps by name (children of an object, character devices): that of its hash table.
///
/// Open addressing with triangular probing over a power of two of places, home place by a prime; a name's hash is
/// `h * 33 + byte` from 5381. Clients do not depend on the order, but it is what they see of QEMU (tested against it).
package struct HashOrder: Equatable, Sendable {
  private enum Place: Equatable, Sendable {
    case unused
    case removed
    case name(String, UInt32)
  }
  private var places = [Place](repeating: .unused, count: 8)
  private var nameCount = 0
  private var occupiedCount = 0

  /// Divisors for 8, 16, 32… places.
  private static let primes: [UInt32] = [
    7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521,
  ]

  package init() {}

  /// The names in the order of the table.
  package var names: [String] {
    places.compactMap { if case .name(let name, _) = $0 { name } else { nil } }
  }

  /// Adds a name; nothing when it is there.
  package mutating func insert(_ name: String) {
    let hash = HashOrder.hash(name)
    let index = find(name, hash)
    switch places[index] {
    case .name: return
    case .unused: occupiedCount += 1
    case .removed: break
    }
    places[index] = .name(name, hash)
    nameCount += 1
    let isSparse = places.count > nameCount * 4 && places.count > 8
    if isSparse || places.count <= occupiedCount + occupiedCount / 16 { resize() }
  }

  /// Removes a name; nothing when it is not there.
  package mutating func remove(_ name: String) {
    let index = find(name, HashOrder.hash(name))
    guard case .name = places[index] else { return }
    places[index] = .removed
    nameCount -= 1
  }

  // MARK: -

  private static func hash(_ name: String) -> UInt32 {
    var hash: UInt32 = 5381
    for byte in name.utf8 {
      hash = hash &* 33 &+ UInt32(bitPattern: Int32(Int8(bitPattern: byte)))
    }
    return hash < 2 ? 2 : hash
  }

  private func home(_ hash: UInt32) -> Int {
    let shift = places.count.trailingZeroBitCount - 3
    let prime = HashOrder.primes[min(shift, HashOrder.primes.count - 1)]
    return Int((hash &* 11) % prime)
  }

  /// The name's place, or the one that it would get.
  private func find(_ name: String, _ hash: UInt32) -> Int {
    var index = home(hash)
    var step = 0
    var firstRemoved: Int?
    while true {
      switch places[index] {
      case .unused: return firstRemoved ?? index
      case .removed: firstRemoved = firstRemoved ?? index
      case .name(let other, _): if other == name { return index }
      }
      step += 1
      if step > places.count { return firstRemoved ?? index }
      index = (index + step) & (places.count - 1)
    }
  }

  /// Moves the names to their places in a table of another size, each making way for the one whose turn it is.
  private mutating func resize() {
    let wanted = Int(Double(nameCount) * 1.333)
    let shift = max(3, Int.bitWidth - wanted.leadingZeroBitCount)
    let oldCount = places.count
    let newCount = 1 << shift
    if newCount > oldCount {
      places += [Place](repeating: .unused, count: newCount - oldCount)
    }
    let old = places
    places = [Place](repeating: .unused, count: newCount)
    // Names are taken in table order; one that finds another, not yet moved, in its place sends it on.
    var rest = old
    var isMoved = [Bool](repeating: false, count: rest.count)
    for index in 0..<oldCount {
      guard case .name = rest[index], !isMoved[index] else { continue }
      var moving = rest[index]
      rest[index] = .unused
      while case .name(_, let hash) = moving {
        var place = home(hash)
        var step = 0
        while isMoved[place] {
          step += 1
          place = (place + step) & (newCount - 1)
        }
        isMoved[place] = true
        let next = rest[place]
        rest[place] = moving
        moving = next
      }
    }
    places = Array(rest.prefix(newCount))
    places = places.map { $0 == .removed ? .unused : $0 }
    occupiedCount = nameCount
  }
}
