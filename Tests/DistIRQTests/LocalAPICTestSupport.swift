import DistIRQ

let t0 = APICTime(nanoseconds: 0)

func at(_ nanoseconds: UInt64, tsc: UInt64 = 0) -> APICTime {
  APICTime(nanoseconds: nanoseconds, tsc: tsc)
}

extension LocalAPIC {
  /// An APIC with the software enable bit set.
  static func enabled(
    id: UInt32 = 0, isBootstrap: Bool = true,
    features: Features = [.x2APIC, .tscDeadline, .eoiBroadcastSuppression]
  ) -> LocalAPIC {
    var apic = LocalAPIC(initialID: id, isBootstrap: isBootstrap, features: features)
    apic.put(0xF0, 0x1FF)
    return apic
  }

  /// The same in x2APIC mode.
  static func extended(id: UInt32 = 0, features: Features = [.x2APIC, .tscDeadline, .cmci])
    -> LocalAPIC
  {
    var apic = LocalAPIC.enabled(id: id, isBootstrap: id == 0, features: features)
    _ = apic.writeMSR(0x1B, apic.base.rawValue | 1 << 10, at: t0)
    return apic
  }

  @discardableResult
  mutating func put(_ offset: UInt32, _ value: UInt32, _ time: APICTime = t0) -> LocalAPICOutcome {
    write(offset: offset, width: 4, UInt64(value), at: time)
  }

  mutating func get(_ offset: UInt32, _ time: APICTime = t0) -> UInt32 {
    UInt32(truncatingIfNeeded: read(offset: offset, width: 4, at: time))
  }

  mutating func fixed(_ vector: UInt8, _ trigger: TriggerMode = .edge) {
    accept(InterruptMessage(destination: id, vector: vector, trigger: trigger))
  }

  var irrVectors: [UInt8] { (0...255).filter { irr.contains($0) } }
  var isrVectors: [UInt8] { (0...255).filter { isr.contains($0) } }
}
