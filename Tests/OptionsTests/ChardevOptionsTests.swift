import Options
import QAPI
import Testing

@Suite struct ChardevOptionsTests {
  private static func inet(_ host: String, _ port: String) -> SocketAddressLegacy {
    .inet(InetSocketAddress(host: host, port: port))
  }

  static let shortTable: [(String, ChardevBackend)] = [
    ("null", .null(ChardevCommon())), ("pty", .pty(ChardevCommon())),
    ("stdio", .stdio(ChardevStdio(signal: true))), ("vc", .vc(ChardevVC())),
    ("vc:640x480", .vc(ChardevVC(width: 640, height: 480))),
    ("vc:80Cx24", .vc(ChardevVC(cols: 80, rows: 24))),
    ("file:/tmp/a,,b,append=on", .file(ChardevFile(out: "/tmp/a,b", append: true))),
    ("pipe:/tmp/p", .pipe(ChardevHostdev(device: "/tmp/p"))),
    ("/dev/ttyS0", .serial(ChardevHostdev(device: "/dev/ttyS0"))),
    ("/dev/parport0", .parallel(ChardevHostdev(device: "/dev/parport0"))),
    (
      "unix:/s,server=on,wait=off",
      .socket(
        ChardevSocket(addr: .unix(UnixSocketAddress(path: "/s")), server: true, wait: false))
    ),
    (
      "unix:/s,abstract=on,server",
      .socket(
        ChardevSocket(
          addr: .unix(UnixSocketAddress(path: "/s", abstract: true)), server: true, wait: true))
    ),
    ("unix:/s", .socket(ChardevSocket(addr: .unix(UnixSocketAddress(path: "/s")), server: false))),
    (
      "tcp:h:1,reconnect=5",
      .socket(ChardevSocket(addr: inet("h", "1"), server: false, reconnect: 5))
    ),
    (
      "tcp::0,server,nowait,nodelay=on",
      .socket(
        ChardevSocket(addr: inet("", "0"), server: true, wait: false, nodelay: true))
    ),
    ("tcp:[::1]:22", .socket(ChardevSocket(addr: inet("::1", "22"), server: false))),
    (
      "telnet:localhost:4444,server=on",
      .socket(
        ChardevSocket(addr: inet("localhost", "4444"), server: true, wait: true, telnet: true))
    ),
    (
      "websocket:127.0.0.1:80,server=on,wait=off",
      .socket(
        ChardevSocket(addr: inet("127.0.0.1", "80"), server: true, wait: false, websocket: true))
    ),
    ("udp:h:7", .udp(ChardevUdp(remote: inet("h", "7")))),
    ("udp::7", .udp(ChardevUdp(remote: inet("localhost", "7")))),
    ("udp:h:7@l:8", .udp(ChardevUdp(remote: inet("h", "7"), local: inet("l", "8")))),
    ("udp::7@:8", .udp(ChardevUdp(remote: inet("localhost", "7"), local: inet("", "8")))),
  ]

  @Test(arguments: shortTable.indices)
  func shortForms(index: Int) throws {
    let (text, backend) = Self.shortTable[index]
    let it = try configuration("-nodefaults -serial '\(text)'")
    #expect(it.chardevs.map(\.backend) == [backend])
    #expect(it.chardevs.map(\.label) == ["serial0"])
    #expect(it.serials == ["serial0"])
  }

  static let longTable: [(String, ChardevBackend)] = [
    (
      "null,logfile=/l,logappend=on", .null(ChardevCommon(logfile: "/l", logappend: true))
    ),
    ("stdio,signal=off", .stdio(ChardevStdio(signal: false))),
    ("ringbuf,size=4k", .ringbuf(ChardevRingbuf(size: 4096))),
    ("memory", .memory(ChardevRingbuf())),
    ("testdev", .testdev(ChardevCommon())),
    ("tty,path=/dev/ttyS1", .serial(ChardevHostdev(device: "/dev/ttyS1"))),
    (
      "socket,path=/s,server=on,wait=off,telnet=on,logfile=/l",
      .socket(
        ChardevSocket(
          logfile: "/l", addr: .unix(UnixSocketAddress(path: "/s")), server: true, wait: false,
          telnet: true))
    ),
    (
      "socket,host=h,port=1,to=9,ipv4=on,ipv6=off,delay=off",
      .socket(
        ChardevSocket(
          addr: .inet(InetSocketAddress(host: "h", port: "1", to: 9, ipv4: true, ipv6: false)),
          server: false, nodelay: true))
    ),
    (
      "socket,fd=7,server=on,wait=off",
      .socket(ChardevSocket(addr: .fd(DescriptorName(str: "7")), server: true, wait: false))
    ),
    (
      "udp,port=5,localport=6",
      .udp(ChardevUdp(remote: inet("localhost", "5"), local: inet("", "6")))
    ),
    ("vc,cols=100,rows=30", .vc(ChardevVC(cols: 100, rows: 30))),
    ("pipe,path=/p", .pipe(ChardevHostdev(device: "/p"))),
    ("file,path=/f", .file(ChardevFile(out: "/f"))),
  ]

  @Test(arguments: longTable.indices)
  func longForms(index: Int) throws {
    let (text, backend) = Self.longTable[index]
    let it = try configuration("-nodefaults -chardev \(text),id=c")
    #expect(it.chardevs.map(\.backend) == [backend])
  }

  @Test func multiplexersHaveABase() throws {
    let it = try configuration(
      "-nodefaults -chardev stdio,id=console,signal=off,mux=on -serial chardev:console"
        + " -mon chardev=console -device isa-debug-exit")
    #expect(it.chardevs.map(\.label) == ["console-base", "console"])
    #expect(it.chardevs[1].backend == .mux(ChardevMux(chardev: "console-base")))
    #expect(it.serials == ["console"])
    #expect(it.monitors.map(\.chardev) == ["console"])
  }

  @Test func multiplexersTakeFourUsers() {
    let four = String(repeating: " -mon c", count: 4)
    #expect(errorLines("-nodefaults -chardev null,id=c,mux=on\(four)") == [])
    #expect(
      errorLines("-nodefaults -chardev null,id=c,mux=on\(four) -mon c")
        == ["goliath: -mon c: Device 'c' is in use"])
  }

  @Test func nographicSharesTheTerminalBetweenSerialPortAndMonitor() throws {
    let both = try configuration("-nographic")
    #expect(both.serials == ["serial0"])
    #expect(both.monitors.map(\.chardev) == ["serial0"])
    #expect(both.chardevs.map(\.label) == ["serial0-base", "serial0", "parallel0"])
    #expect(both.chardevs.last?.backend == .null(ChardevCommon()))
    let serialElsewhere = try configuration("-nographic -serial null")
    #expect(serialElsewhere.monitors.map(\.chardev) == ["compat_monitor0"])
    #expect(serialElsewhere.chardevs.first?.backend == .stdio(ChardevStdio(signal: true)))
    let monitorElsewhere = try configuration("-nographic -monitor null")
    #expect(monitorElsewhere.serials == ["serial0"])
    #expect(monitorElsewhere.chardevs.map(\.label) == ["compat_monitor0", "serial0", "parallel0"])
    let empty = try configuration("-nographic -machine none")
    #expect(empty.serials.isEmpty)
    #expect(empty.monitors.map(\.chardev) == ["compat_monitor0"])
    #expect(try configuration("-nographic -nodefaults").chardevs.isEmpty)
  }

  @Test func labelsCountMonitorsAndPorts() throws {
    let it = try configuration(
      "-nodefaults -chardev null,id=a -qmp null -monitor chardev:a -qmp-pretty null -monitor null"
        + " -serial null -serial none -serial null -parallel null")
    #expect(
      it.chardevs.map(\.label) == [
        "a", "compat_monitor0", "compat_monitor2", "compat_monitor3", "serial0", "serial1",
        "parallel0",
      ])
    #expect(
      it.monitors.map(\.chardev) == ["compat_monitor0", "a", "compat_monitor2", "compat_monitor3"])
    #expect(it.monitors.map(\.pretty) == [false, false, true, false])
  }

  @Test func failuresToOpenNameTheOption() throws {
    let it = try configuration("-nodefaults -serial unix:/nosuch -chardev file,id=c,path=/x")
    #expect(
      it.chardevs.map { $0.failure("No such file or directory").lines(program: "goliath") } == [
        ["goliath: -chardev file,id=c,path=/x: No such file or directory"],
        [
          "goliath: -serial unix:/nosuch: No such file or directory",
          "goliath: -serial unix:/nosuch: could not connect serial device to character backend"
            + " 'unix:/nosuch'",
        ],
      ])
  }
}
