import Host
import Testing

/// The order in which QEMU lists names. The expected lists are QEMU 7.2's own, of `query-chardev` and of `qom-list`.
@Suite struct HashOrderTests {
  @Test func namesComeInTheOrderOfQEMUsTable() {
    var order = HashOrder()
    for name in [
      "compat_monitor0", "n0", "r", "mm", "u", "f", "so", "mb-base", "mb", "td", "vcc", "serial0",
    ] { order.insert(name) }
    // `query-chardev` lists them backwards.
    let listed = [
      "vcc", "mb-base", "mm", "n0", "so", "r", "f", "compat_monitor0", "td", "mb", "u", "serial0",
    ]
    #expect(order.names == listed.reversed())
    order.remove("n0")
    order.insert("n0")
    order.insert("1n0")
    order.insert("nx")
    order.insert("zz")
    let later = [
      "vcc", "nx", "mb-base", "mm", "1n0", "n0", "so", "r", "f", "compat_monitor0", "zz", "td",
      "mb", "u", "serial0",
    ]
    #expect(order.names == later.reversed())
  }

  @Test func everyNameIsListedOnceHoweverManyComeAndGo() {
    var order = HashOrder()
    var present: Set<String> = []
    var seed: UInt64 = 12345
    for _ in 0..<20_000 {
      seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      let name = "n\((seed >> 33) % 700)"
      if seed >> 62 == 0 {
        order.remove(name)
        present.remove(name)
      } else {
        order.insert(name)
        present.insert(name)
      }
    }
    #expect(order.names.count == present.count)
    #expect(Set(order.names) == present)
  }
}
