import Host
import JSON
import Options
import QAPI
import Testing

@Suite struct CommandLineTests {
  @Test func distributedQEMUsLineIsUnderstood() throws {
    let it = try configuration(
      "--nographic -kernel bzImage -append 'root=/dev/ram console=ttyS0' -cpu host"
        + " -machine kernel-irqchip=off -smp 2 -m 512 --enable-kvm -serial mon:stdio"
        + " -monitor telnet:127.0.0.1:1234,server,nowait")
    #expect(it.machine.type == "pc-i440fx-7.2")
    #expect(it.machine.graphics == false)
    #expect(it.accelerators == [.kvm(KVMConfiguration())])
    #expect(it.cpu?.text == "host")
    #expect((it.smp.cpus, it.smp.maxCPUs, it.smp.cores) == (2, 2, 2))
    #expect(it.memory.size == 512 << 20)
    #expect(it.boot.append == "root=/dev/ram console=ttyS0")
    #expect(
      it.chardevs.map(\.label) == ["compat_monitor0", "serial0-base", "serial0", "parallel0"])
    #expect(
      it.chardevs.first?.backend
        == .socket(
          ChardevSocket(
            addr: .inet(InetSocketAddress(host: "127.0.0.1", port: "1234")), server: true,
            wait: false, telnet: true)))
    #expect(it.chardevs[1].backend == .stdio(ChardevStdio(signal: false)))
    #expect(it.chardevs[2].backend == .mux(ChardevMux(chardev: "serial0-base")))
    #expect(it.monitors.map(\.chardev) == ["compat_monitor0", "serial0"])
    #expect(it.monitors.map(\.mode) == [.readline, .readline])
    #expect(it.serials == ["serial0"])
    #expect(it.parallels == ["parallel0"])
  }

  @Test func libvirtsLineIsUnderstoodButForItsObjects() throws {
    let it = try configuration(
      "-name guest=nodev,debug-threads=on -S"
        + " -machine pc-i440fx-7.2,usb=off,dump-guest-core=off -accel tcg"
        + " -cpu qemu64,hypervisor=on,lahf-lm=on -m 256 -overcommit mem-lock=off"
        + " -smp 1,sockets=1,cores=1,threads=1 -uuid 29bcc211-1f93-46c0-a2f0-64e6db36e3a9"
        + " -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=23,server=on,wait=off"
        + " -mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc,driftfix=slew"
        + " -no-shutdown -no-acpi -boot menu=on,splash-time=1000,strict=on"
        + " -device '{\"driver\":\"isa-serial\",\"chardev\":\"charserial0\",\"id\":\"serial0\",\"index\":0}'"
        + " -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        + " -global kvm-pit.lost_tick_policy=delay -watchdog-action reset -display none"
        + " -msg timestamp=on")
    #expect(it.name.guest == "nodev")
    #expect(it.name.debugThreads)
    #expect(it.startPaused)
    #expect(it.machine.dumpGuestCore == false)
    #expect(it.machine.acpi == .off)
    #expect(it.memory.size == 256 << 20)
    #expect(it.uuid?.description == "29bcc211-1f93-46c0-a2f0-64e6db36e3a9")
    #expect(
      it.chardevs.map(\.backend) == [
        .socket(ChardevSocket(addr: .fd(DescriptorName(str: "23")), server: true, wait: false))
      ])
    #expect(it.monitors.map(\.id) == ["monitor"])
    #expect(it.monitors.map(\.mode) == [.control])
    #expect(it.serials.isEmpty)
    #expect(it.rtc.slewsLostTicks)
    #expect(it.actions.shutdown == .pause)
    #expect(it.bootOrder.menu == true && it.bootOrder.strict && it.bootOrder.splashTime == 1000)
    #expect(it.devices.map(\.driver) == ["isa-serial"])
    #expect(it.devices.first?.id == "serial0")
    #expect(
      it.devices.first?.properties == [
        DeviceProperty(name: "chardev", value: .json("charserial0")),
        DeviceProperty(name: "index", value: .json(0)),
      ])
    #expect(it.process.sandbox?.elevatePrivileges == .deny)
    #expect(it.process.sandbox?.deniesSpawn == true)
    #expect(it.globals.map(\.driver) == ["kvm-pit"])
    #expect(it.globals.map(\.value) == ["delay"])
    #expect(it.messages.timestamp)
  }

  @Test func libvirtsProbeIsUnderstood() throws {
    let it = try configuration(
      "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg"
        + " -qmp unix:/tmp/s,server=on,wait=off -pidfile /tmp/p", programName: "qemu-system-x86_64")
    #expect(it.machine.type == "none")
    #expect(it.accelerators.map(\.name) == ["kvm", "tcg"])
    #expect(it.chardevs.map(\.label) == ["compat_monitor0"])
    #expect(it.monitors.map(\.mode) == [.control])
    #expect(it.process.pidFile == "/tmp/p")
    #expect(it.bootOrder.order == nil)
  }

  @Test func defaultsAreThoseOfAPC() throws {
    let it = try configuration("")
    #expect(it.machine.type == "pc-i440fx-7.2")
    #expect(it.accelerators == [.tcg(TCGConfiguration())])
    #expect(it.memory == MemoryConfiguration())
    #expect(it.smp == SMPConfiguration())
    #expect(it.chardevs.map(\.label) == ["compat_monitor0", "serial0", "parallel0"])
    #expect(it.chardevs.first?.backend == .vc(ChardevVC(cols: 80, rows: 24)))
    #expect(it.actions == ActionConfiguration())
    #expect(it.escapeCharacter == 1)
  }

  @Test func programNamedKVMPrefersKVM() throws {
    let it = try configuration("", programName: "kvm")
    #expect(it.accelerators.map(\.name) == ["kvm", "tcg"])
  }

  @Test func laterOptionsWin() throws {
    let it = try configuration(
      "-m 1G -m slots=2 -m size=256,maxmem=4G -M none -M pc,hpet=on -no-hpet -name a -name b"
        + " -smp 4 -smp cores=2 -boot c -boot menu=on -boot order=d -no-reboot"
        + " -action reboot=reset -rtc base=localtime -rtc clock=vm -cpu max -cpu qemu64,+aes")
    #expect(it.memory.size == 256 << 20)
    #expect((it.memory.slots, it.memory.maxSize) == (2, 4 << 30))
    #expect(it.machine.type == "pc-i440fx-7.2")
    #expect(it.machine.hpet == false)
    #expect(it.name.guest == "b")
    #expect((it.smp.cpus, it.smp.sockets, it.smp.cores) == (4, 2, 2))
    #expect((it.bootOrder.order, it.bootOrder.menu) == ("d", true))
    #expect(it.actions.reboot == .reset)
    #expect(it.rtc.base == .localTime)
    #expect(it.rtc.clock == .vm)
    #expect(it.cpu?.text == "qemu64,+aes")
  }

  static let sizes: [(line: String, kibibytes: UInt64)] = [
    ("-m 128", 131072), ("-m 1.5G", 1_572_864), ("-m 512m", 524288), ("-m 1.G", 1_048_576),
    ("-m 1.5k", 8), ("-m size=0x80", 131072), ("-m 0", 131072), ("-m 1T", 1_073_741_824),
    ("-m 64G", 67_108_864), ("-m ''", 131072), ("-machine memory.size=1G", 1_048_576),
    ("-m 65537k", 65544),
  ]

  @Test(arguments: sizes)
  func memorySizes(line: String, kibibytes: UInt64) throws {
    #expect(try configuration(line).memory.size == kibibytes << 10)
  }

  @Test(arguments: [
    ("2", [2, 2, 1, 1, 2, 1]), ("4,sockets=2", [4, 4, 2, 1, 2, 1]),
    ("4,threads=2", [4, 4, 1, 1, 2, 2]), ("1,maxcpus=4", [1, 4, 1, 1, 4, 1]),
    ("sockets=2,cores=3", [6, 6, 2, 1, 3, 1]), ("4,sockets=1,cores=1", [4, 4, 1, 1, 1, 4]),
    ("8,dies=2,cores=2", [8, 8, 2, 2, 2, 1]), ("maxcpus=6", [6, 6, 1, 1, 6, 1]),
    ("2,maxcpus=4,sockets=4,cores=1,threads=1", [2, 4, 4, 1, 1, 1]),
  ])
  func topologies(text: String, expected: [Int]) throws {
    let smp = try configuration("-smp \(text)").smp
    #expect(
      [smp.cpus, smp.maxCPUs, smp.sockets, smp.dies, smp.cores, smp.threads] == expected)
  }

  @Test func acceleratorListsKeepTheirOrder() throws {
    #expect(try configuration("-accel kvm:tcg").accelerators.map(\.name) == ["kvm", "tcg"])
    let several = try configuration("-accel kvm,probe=off -accel tcg,tb-size=64,thread=multi")
    var kvm = KVMConfiguration()
    kvm.probe = false
    var tcg = TCGConfiguration()
    tcg.codeCacheMiB = 64
    #expect(several.accelerators == [.kvm(kvm), .tcg(tcg)])
    var debugging = TCGConfiguration()
    debugging.oneInstructionPerBlock = true
    debugging.threshold = 1
    debugging.exactFlags = true
    debugging.tlbEntries = 16
    debugging.translates = false
    debugging.seed = 1 << 40
    #expect(
      try configuration(
        "-accel tcg,one-insn-per-tb=on,x-threshold=1,x-exact-flags=on,x-tlb-entries=16"
          + ",x-translate=off,x-seed=0x10000000000"
      ).accelerators == [.tcg(debugging)])
    var stepping = TCGConfiguration()
    stepping.oneInstructionPerBlock = true
    #expect(try configuration("-singlestep -accel tcg").accelerators == [.tcg(stepping)])
    #expect(
      try configuration("-machine accel=tcg -enable-kvm").accelerators.map(\.name) == ["kvm"])
    #expect(try configuration("-accel hax -accel tcg").accelerators.map(\.name) == ["tcg"])
  }

  @Test func devicesKeepTextAndOrder() throws {
    let it = try configuration(
      "-device isa-debug-exit,iobase=0x501,iosize=4,id=x -device pvpanic"
        + " -set device.x.iosize=2 -device driver=a,b=c,,d,e")
    #expect(it.devices.map(\.driver) == ["isa-debug-exit", "pvpanic", "a"])
    #expect(it.devices.map(\.id) == ["x", nil, nil])
    #expect(
      it.devices[0].properties == [
        DeviceProperty(name: "iobase", value: .text("0x501")),
        DeviceProperty(name: "iosize", value: .text("4")),
        DeviceProperty(name: "iosize", value: .text("2")),
      ])
    #expect(
      it.devices[2].properties == [
        DeviceProperty(name: "b", value: .text("c,d")),
        DeviceProperty(name: "e", value: .text("on")),
      ])
  }

  @Test func globalsHaveAShortAndALongForm() throws {
    let it = try configuration(
      "-global a.b.c=d,,e -global driver=cfi.pflash01,property=secure,value=on")
    #expect(it.globals.map(\.driver) == ["a.b", "cfi.pflash01"])
    #expect(it.globals.map(\.property) == ["c", "secure"])
    #expect(it.globals.map(\.value) == ["d,,e", "on"])
  }

  @Test func datesAreCountedFrom1970() throws {
    for (text, seconds) in [
      ("1970-01-01", 0), ("2006-06-17T16:01:21", 1_150_560_081), ("2000-02-29", 951_782_400),
      ("2038-01-19T03:14:08", 2_147_483_648), ("1969-12-31T23:59:59", -1),
    ] {
      #expect(
        try configuration("-rtc base=\(text)").rtc.base
          == .fixed(secondsSince1970: Int64(seconds)))
    }
  }

  @Test func acceptedNothingsStayNothing() throws {
    let it = try configuration(
      "-net none -nic none -vga none -display none -display '{\"type\":\"none\"}' -serial none -parallel none -monitor none"
        + " -no-user-config")
    #expect(it.chardevs.isEmpty && it.monitors.isEmpty && it.serials.isEmpty)
  }

  @Test func smallOptionsAreTakenOver() throws {
    let it = try configuration(
      "-L /a -L /b -bios f -D log -d int,cpu_reset,int -k de -only-migratable -echr 0x14"
        + " -overcommit mem-lock=on,cpu-pm=off -fw_cfg opt/a,string=b,,c -fw_cfg name=opt/f,file=/x"
        + " -debugcon file:/d -no-fd-bootchk -sandbox off -action panic=exit-failure"
        + " -machine graphics=off,max-ram-below-4g=2G,vmport=off,x-oem-id=GOLIAT")
    #expect(it.boot.dataDirectories == ["/a", "/b"])
    #expect(it.boot.firmware == "f")
    #expect((it.log.file, it.log.items) == ("log", ["int", "cpu_reset"]))
    #expect(
      try configuration("-dfilter 0x1000..0x1FFF,0x3000+0x10,4096-0x10").log.ranges == [
        0x1000...0x1FFF, 0x3000...0x300F, 0xFF1...0x1000,
      ])
    #expect(it.onlyMigratable)
    #expect(it.escapeCharacter == 0x14)
    #expect(it.overcommit.lockMemory)
    #expect(it.firmwareItems.map(\.contents) == [.text("b,c"), .file("/x")])
    #expect(it.debugConsole == "debugcon")
    #expect(it.machine.floppyBootCheck == false)
    #expect(it.process.sandbox == nil)
    #expect(it.actions.panic == .exitFailure)
    #expect(it.machine.maximumRAMBelow4GiB == 2 << 30)
    #expect(it.machine.oemID == "GOLIAT")
  }

  @Test func metricsHaveAnAddress() throws {
    func address(_ text: String) throws -> SocketAddress? {
      try configuration("-metrics \(text)").metrics?.address
    }
    #expect(try address("127.0.0.1:9100") == .inet(InetAddress(host: "127.0.0.1", port: "9100")))
    #expect(try address("[::1]:9100") == .inet(InetAddress(host: "::1", port: "9100")))
    #expect(try address(":9100") == .inet(InetAddress(host: "", port: "9100")))
    #expect(try address("unix:/run/m") == .unix(path: "/run/m"))
    #expect(
      errorLines("-metrics 9100") == [
        "goliath: -metrics 9100: '9100' is no address; write HOST:PORT, [IPV6]:PORT, :PORT for all"
          + " interfaces, or unix:PATH"
      ])
    #expect(
      errorLines("-metrics ::1:9100") == [
        "goliath: -metrics ::1:9100: write the IPv6 address in brackets: [::1]:9100"
      ])
    #expect(!errorLines("-metrics x:0").isEmpty && !errorLines("-metrics unix:").isEmpty)
  }

  @Test func aKeyboardLayoutIsWarnedAboutAsNoDisplayUsesIt() throws {
    let plan = try CommandLineParser().parse(words("-k de"))
    #expect(
      plan.warnings.flatMap { $0.lines(program: "goliath") } == [
        "goliath: -k de: warning: there is no display that would use a keyboard layout"
      ])
  }

  @Test func switchesWithoutValuesAreWarnedAbout() throws {
    let plan = try CommandLineParser().parse(
      words("-chardev socket,id=c,path=/s,server,nowait -mon c"))
    #expect(
      plan.warnings.flatMap { $0.lines(program: "goliath") } == [
        "goliath: -chardev socket,id=c,path=/s,server,nowait: warning: short-form boolean option"
          + " 'server' deprecated", "Please use server=on instead",
        "goliath: -chardev socket,id=c,path=/s,server,nowait: warning: short-form boolean option"
          + " 'nowait' deprecated", "Please use wait=off instead",
      ])
    // The short forms never had another spelling for long.
    #expect(
      try CommandLineParser().parse(words("-qmp unix:/s,server,nowait")).warnings.isEmpty)
  }
}
