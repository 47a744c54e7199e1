import DeviceModel
import PCI
import Shm
import Synchronization

/// The legacy interface: one I/O BAR (virtio 1.1, 4.1.4.10).
final class LegacyWindow: BusDevice {
  private unowned let owner: VirtioPCI

  init(_ owner: VirtioPCI) { self.owner = owner }

  /// The device's configuration begins after the vectors when there are any.
  private var configurationStart: UInt64 { owner.msix?.isEnabled == true ? 24 : 20 }

  func read(_ access: BusAccess) -> UInt64 {
    let start = configurationStart
    switch access.offset {
    case 0x00: return owner.offeredFeatures(legacy: true) & 0xFFFF_FFFF
    case 0x04: return owner.state.withLock { $0.driverFeatures } & 0xFFFF_FFFF
    case 0x08:
      return owner.withSelectedQueue { $0.isEnabled ? $0.descriptors.rawValue >> 12 : 0 } ?? 0
    case 0x0C: return UInt64(owner.withSelectedQueue { $0.size } ?? 0)
    case 0x0E: return UInt64(owner.state.withLock { $0.queueSelect })
    case 0x12: return UInt64(owner.state.withLock { $0.status })
    case 0x13: return UInt64(owner.takeISR())
    case 0x14 where start == 24:
      return UInt64(owner.state.withLock { $0.configurationVector })
    case 0x16 where start == 24:
      return UInt64(
        owner.state.withLock { state in
          let index = Int(state.queueSelect)
          return state.queueVectors.indices.contains(index)
            ? state.queueVectors[index] : VirtioPCI.noVector
        })
    default:
      guard access.offset >= start else { return 0 }
      return owner.readDeviceConfiguration(access.offset - start, width: access.width)
    }
  }

  func write(_ access: BusAccess, _ value: UInt64) {
    let start = configurationStart
    let word = UInt16(truncatingIfNeeded: value)
    switch access.offset {
    case 0x04: owner.setFeatures(value & 0xFFFF_FFFF, legacy: true)
    case 0x08:
      let page = UInt32(truncatingIfNeeded: value)
      // Page 0 is how old drivers reset.
      if page == 0 {
        owner.setStatus(0, legacy: true)
      } else {
        _ = owner.withSelectedQueue { $0.placeLegacy(page: page) }
      }
    case 0x0E: owner.state.withLock { $0.queueSelect = word }
    case 0x10: owner.notify(Int(word))
    case 0x12: owner.setStatus(UInt8(truncatingIfNeeded: value), legacy: true)
    case 0x14 where start == 24:
      let vector = owner.validVector(word)
      owner.state.withLock { $0.configurationVector = vector }
    case 0x16 where start == 24:
      let vector = owner.validVector(word)
      owner.state.withLock { state in
        let index = Int(state.queueSelect)
        if state.queueVectors.indices.contains(index) { state.queueVectors[index] = vector }
      }
    default:
      if access.offset >= start {
        owner.writeDeviceConfiguration(access.offset - start, width: access.width, value)
      }
    }
  }
}

/// The modern interface: four windows of a page each in one memory BAR (virtio 1.1, 4.1.4.3 to 4.1.4.6).
final class ModernWindow: BusDevice {
  /// Where the driver says that a queue has something new: a write there has no other effect (4.1.4.4).
  static let notifications: Range<UInt64> = 0x3000..<0x4000

  private unowned let owner: VirtioPCI

  init(_ owner: VirtioPCI) { self.owner = owner }

  func read(_ access: BusAccess) -> UInt64 {
    let at = access.offset & 0xFFF
    switch access.offset >> 12 {
    case 0: return readCommon(at, access.width)
    case 1: return at == 0 ? UInt64(owner.takeISR()) : 0
    case 2: return owner.readDeviceConfiguration(at, width: access.width)
    default: return 0
    }
  }

  func write(_ access: BusAccess, _ value: UInt64) {
    let at = access.offset & 0xFFF
    switch access.offset >> 12 {
    case 0: writeCommon(at, access.width, value)
    case 2: owner.writeDeviceConfiguration(at, width: access.width, value)
    case 3: owner.notify(Int(at / 4))
    default: break
    }
  }

  private func readCommon(_ offset: UInt64, _ width: Int) -> UInt64 {
    func half(_ value: UInt64, _ upper: Bool) -> UInt64 {
      upper ? value >> 32 : value & 0xFFFF_FFFF
    }
    switch offset {
    case 0x00: return UInt64(owner.state.withLock { $0.deviceFeatureSelect })
    case 0x04:
      let select = owner.state.withLock { $0.deviceFeatureSelect }
      return select < 2 ? half(owner.offeredFeatures(legacy: false), select == 1) : 0
    case 0x08: return UInt64(owner.state.withLock { $0.driverFeatureSelect })
    case 0x0C:
      return owner.state.withLock { state in
        state.driverFeatureSelect < 2
          ? half(state.driverFeatures, state.driverFeatureSelect == 1) : 0
      }
    case 0x10: return UInt64(owner.state.withLock { $0.configurationVector })
    case 0x12: return UInt64(owner.queueCount)
    case 0x14: return UInt64(owner.state.withLock { $0.status })
    case 0x15: return UInt64(owner.state.withLock { $0.generation })
    case 0x16: return UInt64(owner.state.withLock { $0.queueSelect })
    case 0x18: return UInt64(owner.withSelectedQueue { $0.size } ?? 0)
    case 0x1A:
      return UInt64(
        owner.state.withLock { state in
          let index = Int(state.queueSelect)
          return state.queueVectors.indices.contains(index)
            ? state.queueVectors[index] : VirtioPCI.noVector
        })
    case 0x1C: return owner.withSelectedQueue { $0.isEnabled ? 1 : 0 } ?? 0
    case 0x1E: return UInt64(owner.state.withLock { $0.queueSelect })
    case 0x20, 0x24:
      return owner.withSelectedQueue { half($0.descriptors.rawValue, offset == 0x24) } ?? 0
    case 0x28, 0x2C:
      return owner.withSelectedQueue { half($0.available.rawValue, offset == 0x2C) } ?? 0
    case 0x30, 0x34: return owner.withSelectedQueue { half($0.used.rawValue, offset == 0x34) } ?? 0
    default: return 0
    }
  }

  private func writeCommon(_ offset: UInt64, _ width: Int, _ value: UInt64) {
    let word = UInt16(truncatingIfNeeded: value)
    let double = UInt32(truncatingIfNeeded: value)
    switch offset {
    case 0x00: owner.state.withLock { $0.deviceFeatureSelect = double }
    case 0x08: owner.state.withLock { $0.driverFeatureSelect = double }
    case 0x0C:
      let features: UInt64? = owner.state.withLock { state in
        switch state.driverFeatureSelect {
        case 0: state.driverFeatures & ~0xFFFF_FFFF | UInt64(double)
        case 1: state.driverFeatures & 0xFFFF_FFFF | UInt64(double) << 32
        default: nil
        }
      }
      if let features { owner.setFeatures(features, legacy: false) }
    case 0x10:
      let vector = owner.validVector(word)
      owner.state.withLock { $0.configurationVector = vector }
    case 0x14: owner.setStatus(UInt8(truncatingIfNeeded: value), legacy: false)
    case 0x16: owner.state.withLock { $0.queueSelect = word }
    case 0x18:
      // Up to what was offered; a power of two (2.6) unless the ring is packed (2.7).
      let isPacked = owner.state.withLock { $0.driverFeatures & VirtioFeature.packedRing != 0 }
      _ = owner.withSelectedQueue { queue in
        if word != 0, isPacked || word & (word - 1) == 0, word <= queue.maximumSize {
          queue.size = word
        }
      }
    case 0x1A:
      let vector = owner.validVector(word)
      owner.state.withLock { state in
        let index = Int(state.queueSelect)
        if state.queueVectors.indices.contains(index) { state.queueVectors[index] = vector }
      }
    case 0x1C: if word == 1 { _ = owner.withSelectedQueue { $0.isEnabled = true } }
    case 0x20...0x34 where offset & 3 == 0:
      _ = owner.withSelectedQueue { queue in
        func merge(_ address: inout GuestAddress) {
          address.rawValue =
            offset & 4 == 0
            ? address.rawValue & ~0xFFFF_FFFF | UInt64(double)
            : address.rawValue & 0xFFFF_FFFF | UInt64(double) << 32
        }
        switch offset & ~7 {
        case 0x20: merge(&queue.descriptors)
        case 0x28: merge(&queue.available)
        default: merge(&queue.used)
        }
      }
    default: break
    }
  }
}
