import Host
import Synchronization

/// One access of a vCPU (or of a device) to a device's region.
package struct BusAccess: Sendable {
  /// Bytes from the region's start.
  package let offset: UInt64
  /// 1, 2, 4 or 8 bytes.
  package let width: Int
  /// Who asks.
  package let vcpu: VCPUID

  package init(offset: UInt64, width: Int, vcpu: VCPUID) {
    self.offset = offset
    self.width = width
    self.vcpu = vcpu
  }
}

/// Answers accesses to ports or device memory. Called on vCPU threads, several at a time.
package protocol BusDevice: AnyObject, Sendable {
  /// The value, in the low `width` bytes.
  func read(_ access: BusAccess) -> UInt64
  /// `value` has nothing above its low `width` bytes.
  func write(_ access: BusAccess, _ value: UInt64)
}

/// A range of ports or of physical addresses that one device answers.
package struct BusRegion: Sendable {
  package let name: String
  package let start: UInt64
  /// Bytes, at least 1.
  package let size: UInt64
  package let device: any BusDevice
  /// The widest access that the device takes; wider ones are split into such, lowest address first.
  package let maximumWidth: Int
  /// Where regions overlap, the higher one answers.
  package let priority: Int
  /// Bytes from the region's start where a write only tells the device to look at memory: the writer need not wait for its effect.
  package let doorbells: Range<UInt64>?

  package init(
    name: String, start: UInt64, size: UInt64, device: any BusDevice, maximumWidth: Int = 4,
    priority: Int = 0, doorbells: Range<UInt64>? = nil
  ) {
    self.doorbells = doorbells
    self.name = name
    self.start = start
    self.size = max(size, 1)
    self.device = device
    self.maximumWidth = maximumWidth
    self.priority = priority
  }

  /// The last address, inclusive.
  package var last: UInt64 { start &+ (size &- 1) }
}

/// The I/O ports, or the device memory, of a machine.
///
/// The map is an immutable value behind a lock, replaced whole on change; readers copy the reference, so a region may still be called
/// once by an access that began before its removal. Nothing there: reads answer all ones, writes are lost.
package final class AddressSpace: Sendable {
  package let name: String

  private struct Span {
    let start: UInt64
    let last: UInt64
    let region: Int
  }
  private final class Map: Sendable {
    let regions: [BusRegion]
    let spans: [Span]

    init(_ regions: [BusRegion]) {
      self.regions = regions
      spans = Map.flatten(regions)
    }

    /// Cuts overlapping regions into sorted pieces with one owner each.
    private static func flatten(_ regions: [BusRegion]) -> [Span] {
      var bounds = Set<UInt64>()
      for region in regions {
        bounds.insert(region.start)
        if region.last != UInt64.max { bounds.insert(region.last + 1) }
      }
      let cuts = bounds.sorted()
      var spans: [Span] = []
      for (index, start) in cuts.enumerated() {
        let last = index + 1 < cuts.count ? cuts[index + 1] - 1 : UInt64.max
        // The later of two equal priorities wins, as with a hot-plugged device over an older one.
        let owners = regions.indices.filter {
          regions[$0].start <= start && regions[$0].last >= last
        }
        guard
          let owner = owners.max(by: {
            (regions[$0].priority, $0) < (regions[$1].priority, $1)
          })
        else { continue }
        if let previous = spans.last, previous.region == owner, previous.last &+ 1 == start {
          spans[spans.count - 1] = Span(start: previous.start, last: last, region: owner)
        } else {
          spans.append(Span(start: start, last: last, region: owner))
        }
      }
      return spans
    }

    var doorbells: [Range<UInt64>] {
      spans.compactMap { span in
        let region = regions[span.region]
        guard let wanted = region.doorbells, span.last < UInt64.max else { return nil }
        let start = max(region.start &+ wanted.lowerBound, span.start)
        let end = min(region.start &+ wanted.upperBound, span.last + 1)
        return start < end ? start..<end : nil
      }
    }

    func find(_ address: UInt64) -> (BusRegion, UInt64)? {
      var low = 0
      var high = spans.count
      while low < high {
        let middle = (low + high) / 2
        if spans[middle].last < address { low = middle + 1 } else { high = middle }
      }
      guard low < spans.count, spans[low].start <= address else { return nil }
      return (regions[spans[low].region], spans[low].last)
    }
  }
  private let map = Mutex(Map([]))

  package init(name: String) { self.name = name }

  private struct Observer: Sendable { let call: @Sendable () -> Void }
  private let observer = Mutex<Observer?>(nil)

  /// Calls `observer` after each change of the map, on the thread that made it, which may hold locks. One observer.
  package func observe(_ observer: @escaping @Sendable () -> Void) {
    self.observer.withLock { $0 = Observer(call: observer) }
  }

  private func change(_ body: ([BusRegion]) -> [BusRegion]) {
    map.withLock { $0 = Map(body($0.regions)) }
    observer.withLock { $0 }?.call()
  }

  /// Where writes need not be waited for, in order: what is not hidden below other regions.
  package var doorbells: [Range<UInt64>] { map.withLock { $0 }.doorbells }

  /// All regions, in the order they were added.
  package var regions: [BusRegion] { map.withLock { $0 }.regions }

  /// Adds a region.
  package func add(_ region: BusRegion) { change { $0 + [region] } }

  /// Takes out all regions of `device`.
  package func remove(_ device: any BusDevice) {
    change { $0.filter { $0.device !== device } }
  }

  /// Takes out the regions of `device` and adds `regions`, in one step.
  package func replace(_ device: any BusDevice, with regions: [BusRegion]) {
    change { $0.filter { $0.device !== device } + regions }
  }

  /// Whether some device answers at `address`.
  package func isMapped(_ address: UInt64) -> Bool { map.withLock { $0 }.find(address) != nil }

  /// Reads `width` bytes (1, 2, 4 or 8).
  package func read(_ address: UInt64, width: Int, vcpu: VCPUID) -> UInt64 {
    let map = map.withLock { $0 }
    if let (region, last) = map.find(address), width <= region.maximumWidth,
      address &+ UInt64(width &- 1) <= last, address &+ UInt64(width &- 1) >= address
    {
      let access = BusAccess(offset: address &- region.start, width: width, vcpu: vcpu)
      let value = region.device.read(access) & AddressSpace.mask(width)
      trace(.memoryRegionOpsRead, region, address, width, value, vcpu)
      return value
    }
    return splitRead(map, address, width, vcpu)
  }

  /// Writes the low `width` bytes (1, 2, 4 or 8) of `value`.
  package func write(_ address: UInt64, width: Int, _ value: UInt64, vcpu: VCPUID) {
    let map = map.withLock { $0 }
    if let (region, last) = map.find(address), width <= region.maximumWidth,
      address &+ UInt64(width &- 1) <= last, address &+ UInt64(width &- 1) >= address
    {
      let access = BusAccess(offset: address &- region.start, width: width, vcpu: vcpu)
      trace(.memoryRegionOpsWrite, region, address, width, value, vcpu)
      region.device.write(access, value & AddressSpace.mask(width))
      return
    }
    splitWrite(map, address, width, value, vcpu)
  }

  /// All ones in the low `width` bytes.
  package static func mask(_ width: Int) -> UInt64 {
    width >= 8 ? UInt64.max : (1 &<< UInt64(width &* 8)) &- 1
  }

  private func splitRead(_ map: Map, _ address: UInt64, _ width: Int, _ vcpu: VCPUID) -> UInt64 {
    var value: UInt64 = 0
    var done = 0
    while done < width {
      let at = address &+ UInt64(done)
      guard let (region, last) = map.find(at) else {
        if done == 0 { report("read", address, width) }
        value |= 0xFF &<< UInt64(done &* 8)
        done += 1
        continue
      }
      let step = AddressSpace.step(region, at, last, width - done)
      let access = BusAccess(offset: at &- region.start, width: step, vcpu: vcpu)
      let part = region.device.read(access) & AddressSpace.mask(step)
      trace(.memoryRegionOpsRead, region, at, step, part, vcpu)
      value |= part &<< UInt64(done &* 8)
      done += step
    }
    return value
  }

  private func splitWrite(
    _ map: Map, _ address: UInt64, _ width: Int, _ value: UInt64, _ vcpu: VCPUID
  ) {
    var done = 0
    while done < width {
      let at = address &+ UInt64(done)
      guard let (region, last) = map.find(at) else {
        if done == 0 { report("write", address, width) }
        done += 1
        continue
      }
      let step = AddressSpace.step(region, at, last, width - done)
      let access = BusAccess(offset: at &- region.start, width: step, vcpu: vcpu)
      let part = (value &>> UInt64(done &* 8)) & AddressSpace.mask(step)
      trace(.memoryRegionOpsWrite, region, at, step, part, vcpu)
      region.device.write(access, part)
      done += step
    }
  }

  @inline(__always)
  private func trace(
    _ event: TraceEvent, _ region: BusRegion, _ address: UInt64, _ width: Int, _ value: UInt64,
    _ vcpu: VCPUID
  ) {
    Trace.write(
      event,
      "cpu \(vcpu.rawValue) addr \(Trace.hex(address)) value \(Trace.hex(value)) size \(width)"
        + " name '\(region.name)'")
  }

  /// Nothing answers: for `-d unimp`.
  private func report(_ what: String, _ address: UInt64, _ width: Int) {
    Log.write(
      .unimplemented,
      "\(name): \(what) of \(width) byte(s) at 0x\(String(address, radix: 16)): no device there")
  }

  /// The widest power of two that region, span and rest allow.
  private static func step(_ region: BusRegion, _ at: UInt64, _ last: UInt64, _ left: Int) -> Int {
    var step = 8
    while step > 1, step > left || step > region.maximumWidth || last &- at < UInt64(step - 1) {
      step /= 2
    }
    return step
  }
}
