package import DeviceModel
package import Host
import JSON
package import QAPI

/// `iothread`: a thread for the queues of devices.
@MainLoop
package final class IOThreadObject: UserObject {
  package let typeName = "iothread"
  private let name: String
  /// Nanoseconds of busy waiting at most.
  package private(set) var pollMaximum: Int = 32768
  package private(set) var pollGrow: Int = 0
  package private(set) var pollShrink: Int = 0
  package private(set) var maximumBatch: Int = 0
  private var poolMinimum: Int = 0
  private var poolMaximum: Int = 64
  /// There once the object is complete.
  package private(set) var thread: IOThread?
  /// How many devices have their queues here.
  package var userCount = 0

  /// Throws when a value is out of range.
  package init(id: String, _ options: IothreadProperties) throws(QAPIError) {
    name = id
    for (option, value) in [
      ("aio-max-batch", options.aioMaxBatch), ("thread-pool-min", options.threadPoolMin),
      ("thread-pool-max", options.threadPoolMax), ("poll-max-ns", options.pollMaxNs),
      ("poll-grow", options.pollGrow), ("poll-shrink", options.pollShrink),
    ] {
      if let value { try IOThreadObject.check(option, value) }
    }
    maximumBatch = options.aioMaxBatch ?? maximumBatch
    pollMaximum = options.pollMaxNs ?? pollMaximum
    pollGrow = options.pollGrow ?? pollGrow
    pollShrink = options.pollShrink ?? pollShrink
    try setPool(options.threadPoolMin ?? poolMinimum, options.threadPoolMax ?? poolMaximum)
  }

  package var threadID: Int { Int(thread?.threadID ?? 0) }

  package var objectProperties: [ObjectProperty] {
    [
      property("thread-pool-min") {
        $0.poolMinimum
      } set: { (object, value) throws(QAPIError) in
        try object.setPool(value, object.poolMaximum)
      },
      property("aio-max-batch") {
        $0.maximumBatch
      } set: { object, value in
        object.maximumBatch = value
      },
      property("thread-pool-max") {
        $0.poolMaximum
      } set: { (object, value) throws(QAPIError) in
        try object.setPool(object.poolMinimum, value)
      },
      property("poll-max-ns") {
        $0.pollMaximum
      } set: { object, value in
        object.pollMaximum = value
      },
      property("poll-grow") {
        $0.pollGrow
      } set: { object, value in
        object.pollGrow = value
      },
      property("poll-shrink") {
        $0.pollShrink
      } set: { object, value in
        object.pollShrink = value
      },
    ]
  }

  private func property(
    _ name: String, get: @escaping @MainLoop (IOThreadObject) -> Int,
    set: @escaping @MainLoop (IOThreadObject, Int) throws(QAPIError) -> Void
  ) -> ObjectProperty {
    .value(name, "int") { [unowned self] () throws(QAPIError) -> Int in
      get(self)
    } set: { [unowned self] (value: Int) throws(QAPIError) in
      try IOThreadObject.check(name, value)
      try set(self, value)
      applyPolling()
    }
  }

  private static func check(_ name: String, _ value: Int) throws(QAPIError) {
    guard value >= 0 else {
      throw QAPIError("\(name) value must be in range [0, \(Int.max)]")
    }
  }

  private func setPool(_ minimum: Int, _ maximum: Int) throws(QAPIError) {
    guard maximum > 0, minimum <= maximum else {
      throw QAPIError("bad thread-pool-min/thread-pool-max values")
    }
    (poolMinimum, poolMaximum) = (minimum, maximum)
  }

  private func applyPolling() {
    thread?.setPolling(
      maximum: Int64(pollMaximum), grow: Int64(pollGrow), shrink: Int64(pollShrink))
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    do throws(SystemError) { thread = try IOThread(name: name) } catch {
      throw QAPIError("Could not start the thread: \(error.reason)")
    }
    applyPolling()
  }

  package var canBeDeleted: Bool { userCount == 0 }

  package func deleted() {
    thread?.stop()
    thread = nil
  }
}
