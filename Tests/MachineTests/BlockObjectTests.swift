import Block
import DeviceModel
import Glibc
import Host
import JSON
import Machine
import Options
import QAPI
import Support
import Testing

/// `iothread` and `throttle-group` as users make and change them.
@Suite struct BlockObjectTests {
  init() { MainLoopThread.start() }

  @MainLoop private static func registry(_ groups: ThrottleGroups = ThrottleGroups())
    -> ObjectRegistry
  {
    ObjectRegistry(
      make: ObjectFactory(MachineConfiguration(type: "none"), throttleGroups: groups).make)
  }

  @MainLoop private static func add(_ registry: ObjectRegistry, _ text: String) -> String? {
    do {
      try registry.add(ObjectOptions(decoding: try JSONValue(parsing: text)))
      return nil
    } catch {
      return (error as? QAPIError)?.description ?? "\(error)"
    }
  }

  @MainLoop private static func set(
    _ registry: ObjectRegistry, _ id: String, _ name: String, _ value: JSONValue
  ) -> String? {
    do {
      let node = registry.node.child(id)
      try node?.set(name, to: value)
      return node == nil ? "no object" : nil
    } catch { return error.description }
  }

  @Test @MainLoop func iothreadsAreRealThreadsUntilTheyAreDeleted() throws {
    let objects = Self.registry()
    #expect(Self.add(objects, #"{"qom-type":"iothread","id":"t","poll-grow":3}"#) == nil)
    let object = try #require(objects.find("t", IOThreadObject.self))
    #expect(object.threadID > 0)
    #expect(object.threadID != Int(getpid()))
    #expect(object.pollMaximum == 32768)
    #expect(object.pollGrow == 3)
    #expect(Self.set(objects, "t", "poll-max-ns", 5) == nil)
    #expect(object.pollMaximum == 5)
    #expect(
      Self.set(objects, "t", "poll-max-ns", -5)
        == "poll-max-ns value must be in range [0, 9223372036854775807]")
    #expect(
      Self.set(objects, "t", "thread-pool-min", 65)
        == "bad thread-pool-min/thread-pool-max values")
    #expect(
      Self.add(objects, #"{"qom-type":"iothread","id":"u","aio-max-batch":-1}"#)
        == "aio-max-batch value must be in range [0, 9223372036854775807]")
    object.userCount = 1
    #expect(throws: QAPIError.self) { try objects.delete("t") }
    object.userCount = 0
    try objects.delete("t")
    #expect(object.thread == nil)
  }

  @Test @MainLoop func throttleGroupsTakeLimitsAtOnceAndLater() throws {
    let groups = ThrottleGroups()
    let objects = Self.registry(groups)
    #expect(
      Self.add(
        objects,
        #"{"qom-type":"throttle-group","id":"g","x-iops-total":100,"limits":{"bps-read":7}}"#)
        == nil)
    let group = try #require(groups.find("g"))
    #expect(group.limits.operationsTotal.average == 100)
    #expect(group.limits.bytesRead.average == 7)
    #expect(
      Self.set(objects, "g", "limits", ["iops-total": 50, "iops-total-max": 60]) == nil)
    #expect(group.limits.operationsTotal.maximum == 60)
    #expect(group.limits.bytesRead.average == 7)
    #expect(
      Self.set(objects, "g", "x-iops-total", 5) == "Property cannot be set after initialization")
    #expect(
      Self.set(objects, "g", "limits", ["iops-total": 70])
        == "bps_max/iops_max cannot be lower than bps/iops")
    #expect(group.limits.operationsTotal.average == 50)
    #expect(
      Self.add(objects, #"{"qom-type":"throttle-group","id":"h","x-iops-total":-5}"#)
        == "Property values cannot be negative")
    #expect(
      Self.add(objects, #"{"qom-type":"throttle-group","id":"h","x-bps-read-max-length":5}"#)
        == "burst length set without burst rate")
    _ = groups.use("g")
    #expect(throws: QAPIError.self) { try objects.delete("g") }
    groups.release("g")
    try objects.delete("g")
    #expect(groups.find("g") == nil)
  }
}
