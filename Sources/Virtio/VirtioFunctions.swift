package import DeviceModel
package import Host
package import PCI
import Synchronization

/// Properties that all virtio functions on PCI have in common.
package enum VirtioProperties {
  package static let common = [
    PropertyDescription("disable-legacy", "OnOffAuto", default: .string("auto"), "on/off/auto"),
    PropertyDescription("disable-modern", "bool", default: .bool(false)),
    PropertyDescription("event_idx", "bool", default: .bool(true), "on/off"),
    PropertyDescription("indirect_desc", "bool", default: .bool(true), "on/off"),
    PropertyDescription("packed", "bool", default: .bool(false), "on/off"),
  ]
}

/// Which interfaces a function's type stands for: types come in three kinds, two of which say so by their names.
package enum VirtioVariant: String, Sendable {
  /// As `disable-legacy` and `disable-modern` say.
  case usual = ""
  /// Both interfaces.
  case transitional = "-transitional"
  /// The modern one alone.
  case nonTransitional = "-non-transitional"

  package static let named = [transitional, nonTransitional]

  /// The kind of the type of that name.
  package init(ofType name: String) {
    self =
      name.hasSuffix(VirtioVariant.nonTransitional.rawValue)
      ? .nonTransitional
      : name.hasSuffix(VirtioVariant.transitional.rawValue) ? .transitional : .usual
  }

  /// Whether a property is one that the named kinds do not have.
  package static func isImplied(_ property: String) -> Bool {
    property == "disable-legacy" || property == "disable-modern"
  }
}

extension DeviceType {
  /// This type of that kind.
  package func variant(_ variant: VirtioVariant) -> DeviceType {
    if variant == .usual { return self }
    return DeviceType(
      name: name + variant.rawValue, parent: parent, bus: bus, description: description,
      properties: properties.filter { !VirtioVariant.isImplied($0.name) },
      isUserCreatable: isUserCreatable, isHotpluggable: isHotpluggable)
  }
}

/// A virtio device as a function on the PCI bus: in the object tree it has the device itself below it, on a bus of its own.
package protocol VirtioFunction: PCIPlaced {
  var settings: VirtioPCI.Settings { get }
}

extension VirtioFunction {
  package var typeInfo: DeviceType { Self.type.variant(settings.variant) }
  /// The type of the device behind the function.
  package var backendType: String {
    let name = Self.type.name
    return (name.hasSuffix("-pci") ? String(name.dropLast(4)) : name) + "-device"
  }
}

/// `virtio-balloon-pci`.
package final class VirtioBalloonPCI: VirtioFunction {
  package static let type = DeviceType(
    name: "virtio-balloon-pci", parent: "virtio-balloon-pci-base", bus: "PCI", description: "",
    properties: PCIPlacement.properties + VirtioProperties.common + [
      PropertyDescription("deflate-on-oom", "bool", default: .bool(false), "on/off"),
      PropertyDescription("free-page-reporting", "bool", default: .bool(false), "on/off"),
    ], isUserCreatable: true)

  package let balloon: Balloon
  package let placement: PCIPlacement
  package let settings: VirtioPCI.Settings
  private let options: Balloon.Settings
  private let transport = Mutex<VirtioPCI?>(nil)

  /// `ramSize` is what the guest has while the balloon is empty, in bytes.
  package init(
    _ placement: PCIPlacement, _ settings: VirtioPCI.Settings, _ options: Balloon.Settings,
    ramSize: UInt64
  ) {
    self.placement = placement
    self.settings = settings
    self.options = options
    balloon = Balloon(options, ramSize: ramSize)
  }

  package var properties: [(name: String, value: PropertyValue)] {
    placement.values + settings.values + [
      ("deflate-on-oom", .bool(options.deflateOnOutOfMemory)),
      ("free-page-reporting", .bool(options.freePageReporting)),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let transport = VirtioPCI(balloon, settings, in: context)
    balloon.attach(to: transport, in: context) { HostClock.realtime / 1_000_000_000 }
    try transport.connect(at: placement, in: context)
    self.transport.withLock { $0 = transport }
  }

  package func reset(_ kind: ResetKind) { transport.withLock { $0 }?.resetAll() }

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    balloon.pollingInterval = 0
    transport.withLock { $0 }?.disconnect()
    finished()
  }
}

/// `virtio-rng-pci`.
package final class VirtioRandomPCI: VirtioFunction {
  package static let type = DeviceType(
    name: "virtio-rng-pci", parent: "virtio-rng-pci-base", bus: "PCI", description: "",
    properties: PCIPlacement.properties + VirtioProperties.common + [
      PropertyDescription("max-bytes", "uint64", default: .unsigned(UInt64(Int64.max))),
      PropertyDescription("period", "uint32", default: .unsigned(65536)),
      PropertyDescription("rng", "link<rng-backend>"),
      PropertyDescription("vectors", "uint32", default: .unsigned(0xFFFF_FFFF)),
    ], isUserCreatable: true)

  package let placement: PCIPlacement
  private let entropy: Entropy
  package let settings: VirtioPCI.Settings
  private let quota: Entropy.Quota
  private let transport = Mutex<VirtioPCI?>(nil)
  @MainLoop private let source: any RandomSource

  @MainLoop
  package init(
    _ placement: PCIPlacement, _ settings: VirtioPCI.Settings, _ quota: Entropy.Quota,
    source: any RandomSource
  ) {
    self.placement = placement
    self.settings = settings
    self.quota = quota
    self.source = source
    entropy = Entropy(quota)
  }

  package var properties: [(name: String, value: PropertyValue)] {
    placement.values + settings.values + [
      ("vectors", .unsigned(UInt64(settings.vectors))),
      ("max-bytes", .unsigned(quota.bytes)), ("period", .unsigned(UInt64(quota.period))),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let transport = VirtioPCI(entropy, settings, in: context)
    MainLoop.assumeIsolated { entropy.attach(to: transport, source: source, in: context) }
    try transport.connect(at: placement, in: context)
    self.transport.withLock { $0 = transport }
  }

  package func reset(_ kind: ResetKind) { transport.withLock { $0 }?.resetAll() }

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    transport.withLock { $0 }?.disconnect()
    finished()
  }
}

extension VirtioPCI.Settings {
  /// The settings as `info qtree` shows them.
  var values: [(name: String, value: PropertyValue)] {
    let interfaces: [(name: String, value: PropertyValue)] = [
      ("disable-legacy", .string(hasLegacy ? "off" : "on")),
      ("disable-modern", .bool(!hasModern)),
    ]
    return (variant == .usual ? interfaces : []) + [
      ("event_idx", .bool(eventIndex)), ("indirect_desc", .bool(indirectDescriptors)),
      ("packed", .bool(packedRings)),
    ]
  }
}
