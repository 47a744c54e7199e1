package import Shm

/// Feature bits that belong to the transport and the rings (virtio 1.1, 6).
package enum VirtioFeature {
  package static let notifyOnEmpty: UInt64 = 1 << 24
  package static let anyLayout: UInt64 = 1 << 27
  package static let indirectDescriptors: UInt64 = 1 << 28
  package static let eventIndex: UInt64 = 1 << 29
  package static let version1: UInt64 = 1 << 32
  package static let packedRing: UInt64 = 1 << 34
}

/// A virtio device apart from how it is reached: its queues' meaning and its configuration space.
///
/// Called on vCPU threads and on the main loop, several at a time; no lock of the transport is held.
package protocol VirtioDevice: AnyObject, Sendable {
  /// The device's number (virtio 1.1, 5).
  var number: UInt16 { get }
  /// Feature bits of the device itself, 0 to 23 and 50 on.
  var offeredFeatures: UInt64 { get }
  /// Entries of each queue.
  var queueSizes: [UInt16] { get }
  /// The device's configuration space.
  var configuration: [UInt8] { get }
  /// A write into it, not beyond its end.
  func writeConfiguration(_ offset: Int, _ bytes: [UInt8])
  /// The driver is ready (DRIVER_OK) with these features.
  func start(_ features: UInt64)
  /// The driver put something into that queue.
  func notified(_ queue: Int)
  /// Back to the initial state; nothing of the queues may be used any more.
  func reset()
}

/// What a device needs of its transport.
package protocol VirtioTransport: AnyObject, Sendable {
  /// Takes the next element of a queue; nil when none waits or the device is broken.
  func pop(_ queue: Int) -> VirtQueueElement?
  /// The same into an element that has been used before, in its room; false when none waits.
  func pop(_ queue: Int, into element: inout VirtQueueElement) -> Bool
  /// Puts the element that was taken last back; the device looks again by itself.
  func unpop(_ queue: Int)
  /// Gives an element back; the driver hears of it by `notifyDriver`, once for a batch.
  func push(_ queue: Int, _ element: VirtQueueElement, written: UInt32)
  /// Tells the driver of what was pushed if it wants to hear of it.
  func notifyDriver(_ queue: Int)
  /// While `on`, the driver need not announce what it adds. Answers whether entries wait after the change.
  func setPolled(_ queue: Int, _ on: Bool) -> Bool
  /// Gives an element back and tells the driver if it wants to hear of it.
  func complete(_ queue: Int, _ element: VirtQueueElement, written: UInt32)
  /// Tells the driver that the configuration space changed.
  func configurationChanged()
  /// The driver broke the rules: nothing goes on until it resets the device (2.1.2, DEVICE_NEEDS_RESET).
  func fail(_ reason: String)
  /// The guest's memory.
  var memory: GuestMemory { get }
}
