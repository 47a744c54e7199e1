import DeviceModel
import Host
import JSON
import QAPI
import Support
import Testing

/// An object that can be kept from going away.
@MainLoop
private final class Lamp: UserObject {
  let typeName = "lamp"
  var isUsed = false
  var isLit = false
  var isGone = false
  var fault: QAPIError?

  var objectProperties: [ObjectProperty] {
    [
      .value(
        "lit", "bool", get: { [unowned self] in isLit }, set: { [unowned self] in isLit = $0 }),
      .constant("watts", "int", 60), ObjectProperty("secret", "string", set: { _ in }),
    ]
  }
  func complete(in registry: ObjectRegistry) throws(QAPIError) { if let fault { throw fault } }
  var canBeDeleted: Bool { !isUsed }
  func deleted() { isGone = true }
}

@MainLoop
private func tree() -> ObjectTree {
  let leaf = ObjectNode("leaf", properties: { [.constant("n", "int", 7)] })
  let bus = ObjectNode(
    "bus",
    properties: { [.link("up", to: "container", { "/a" }), .link("nothing", to: "x", { nil })] },
    children: { [("leaf", leaf)] })
  let a = ObjectNode.container { [("bus", bus), ("only", leaf)] }
  let b = ObjectNode.container { [("leaf", leaf)] }
  return ObjectTree(root: .container { [("a", a), ("b", b)] })
}

@Suite struct ObjectTreeTests {
  init() { MainLoopThread.start() }

  @Test @MainLoop func pathsAreAbsoluteOrPartialOrAmbiguous() {
    let tree = tree()
    func path(_ text: String) -> String {
      switch tree.resolve(text) {
      case .found(_, let path): path
      case .ambiguous: "ambiguous"
      case .none: "none"
      }
    }
    #expect(path("/") == "/")
    #expect(path("/a/bus/leaf") == "/a/bus/leaf")
    #expect(path("//a//bus/") == "/a/bus")
    #expect(path("only") == "/a/only")
    #expect(path("bus/leaf") == "/a/bus/leaf")
    #expect(path("leaf") == "ambiguous")
    #expect(path("") == "ambiguous")
    #expect(path("c") == "none")
    #expect(path("/a/leaf") == "none")
  }

  @Test @MainLoop func linksLeadOnAndDoNotGoInCircles() {
    let tree = tree()
    #expect(tree["/a/bus/up/only"]?.type == "leaf")
    #expect(tree["/a/bus/nothing"] == nil)
    #expect(tree["/a" + String(repeating: "/bus/up", count: 100)] != nil)
    let ring = ObjectNode("ring", properties: { [.link("self", to: "ring", { "/r/self" })] })
    #expect(ObjectTree(root: .container { [("r", ring)] })["/r/self"] == nil)
  }

  @Test @MainLoop func propertiesFailAsInQEMU() throws {
    let lamp = Lamp()
    let registry = ObjectRegistry { _, _ throws(QAPIError) in lamp }
    try registry.add(lamp, id: "l")
    let node = try #require(registry.node.child("l"))
    #expect(node.list.map(\.name) == ["type", "lit", "watts", "secret"])
    try node.set("lit", to: true)
    #expect(lamp.isLit)
    #expect(try node.value(of: "lit", path: "/l") == true)
    #expect(try node.value(of: "type", path: "/l") == "lamp")
    #expect(throws: QAPIError("Invalid parameter type for 'lit', expected: boolean")) {
      try node.set("lit", to: 1)
    }
    #expect(throws: QAPIError("Property 'lamp.watts' is not writable")) {
      try node.set("watts", to: 1)
    }
    #expect(throws: QAPIError("Property 'lamp.type' is not writable")) {
      try node.set("type", to: "x")
    }
    #expect(throws: QAPIError("Property 'lamp.secret' is not readable")) {
      _ = try node.value(of: "secret", path: "/l")
    }
    #expect(throws: QAPIError("Property 'lamp.zork' not found")) { try node.set("zork", to: 1) }
    #expect(try registry.node.value(of: "l", path: "/objects") == "/objects/l")
  }

  @Test @MainLoop func objectsComeAndGo() throws {
    let options = try ObjectOptions(
      decoding: ["qom-type": "rng-builtin", "id": "one"])
    var made: [Lamp] = []
    let registry = ObjectRegistry { _, _ throws(QAPIError) in
      made.append(Lamp())
      return made[made.count - 1]
    }
    try registry.add(options)
    let again = "attempt to add duplicate property 'one' to object (type 'container')"
    #expect(throws: QAPIError(again)) { try registry.add(options) }
    made[0].isUsed = true
    #expect(throws: QAPIError("object 'one' is in use, can not be deleted")) {
      try registry.delete("one")
    }
    made[0].isUsed = false
    try registry.delete("one")
    #expect(made[0].isGone)
    #expect(throws: QAPIError("object 'one' not found")) { try registry.delete("one") }
    var bad = options
    bad.id = "1st"
    #expect(throws: QAPIError("Parameter 'id' expects an identifier")) { try registry.add(bad) }
    let broken = Lamp()
    broken.fault = QAPIError("no bulb")
    #expect(throws: QAPIError("no bulb")) { try registry.add(broken, id: "dark") }
    #expect(registry["dark"] == nil)
  }
}
