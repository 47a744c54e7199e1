import Testing

/// `device_add` and `device_del` beside QEMU 7.2.
extension MachinePeerTests {
  @Test func devicesThatAreAddedAndRefused() throws {
    func add(_ members: String) -> (name: String, arguments: String) {
      ("device_add", "{\(members)}")
    }
    func random(_ more: String = "") -> (name: String, arguments: String) {
      add("\"driver\":\"virtio-rng-pci\"" + more)
    }
    func list(_ path: String) -> (name: String, arguments: String) {
      ("qom-list", "{\"path\":\"\(path)\"}")
    }
    func get(_ path: String, _ property: String) -> (name: String, arguments: String) {
      ("qom-get", "{\"path\":\"\(path)\",\"property\":\"\(property)\"}")
    }
    try compare(
      [
        "-machine", "pc", "-accel", "tcg", "-S", "-nodefaults", "-chardev", "null,id=n0",
        "-chardev", "null,id=n1", "-device", "virtio-rng-pci,id=cold", "-device",
        "piix3-usb-uhci,id=u", "-device", "isa-serial,id=s,chardev=n0",
      ],
      [
        add(""), add(#""driver":"nope""#), add(#""driver":"pci-device""#),
        add(#""driver":"isa-serial","id":"s2""#), random(#","id":"1x""#), random(#","id":"r1""#),
        random(#","id":"r1""#), random(#","bus":"pci""#), random(#","bus":"isa.0""#),
        random(#","foo":1"#), random(#","vectors":"x""#), random(#","vectors":-1"#),
        random(#","vectors":8589934592"#), random(#","event_idx":"maybe""#),
        random(#","event_idx":true,"packed":"on","id":"packed""#), random(#","addr":"3""#),
        random(#","addr":"40""#), random(#","addr":"3.9""#), random(#","addr":"xyz""#),
        random(#","addr":17,"id":"a17""#), random(#","addr":"11.1""#),
        random(#","addr":"12.1","id":"f1""#), random(#","addr":"12.0""#),
        random(#","addr":"12.0","multifunction":true,"id":"f0""#),
        random(#","addr":"12.2""#), random(#","rng":"nope""#), random(#","period":0"#),
        add(#""driver":"virtio-balloon-pci","id":"b""#),
        add(#""driver":"virtio-balloon-pci""#), add(#""driver":"virtserialport""#),
        add(#""driver":"virtio-serial-pci","id":"vs""#),
        add(#""driver":"virtserialport","id":"p1","chardev":"n1","name":"org.x""#),
        add(#""driver":"virtserialport","nr":1"#), add(#""driver":"virtserialport","nr":0"#),
        add(#""driver":"virtserialport","nr":99"#),
        add(#""driver":"virtserialport","name":"org.x""#),
        add(#""driver":"virtserialport","chardev":"n0""#),
        add(#""driver":"virtserialport","chardev":"x""#),
        add(#""driver":"virtconsole","id":"c0""#),
        add(#""driver":"virtio-serial-pci","id":"one","max_ports":1"#),
        add(#""driver":"virtconsole","bus":"one.0","id":"c1""#),
        add(#""driver":"virtconsole","bus":"one.0""#),
        get("/machine/peripheral/p1", "parent_bus"), get("/machine/peripheral/p1", "hotplugged"),
        get("/machine/peripheral/cold", "hotplugged"),
        get("/machine/peripheral/r1", "hotpluggable"), get("/machine/peripheral/vs", "vectors"),
        get("/machine/peripheral/packed", "packed"),
        list("/machine/peripheral/vs/virtio-backend"), list("/machine/peripheral/p1"),
        ("device_del", #"{"id":"nope"}"#), ("device_del", #"{"id":"s"}"#),
        ("device_del", #"{"id":"/machine"}"#), ("device_del", #"{"id":"/machine/nope"}"#),
      ])
  }
}
