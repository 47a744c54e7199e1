/// Command lines that must be refused, with the first line on stderr after `goliath: `.
/// A `≠` marks sentences that are ours: QEMU says something else, or nothing, or accepts it.
let refusals: [(line: String, sentence: String)] = [
  ("-bogus", "-bogus: invalid option"),
  ("--bogus", "--bogus: invalid option"),
  ("-nographi", "-nographi: invalid option; did you mean '-nographic'?"),
  ("-mahcine pc", "-mahcine: invalid option; did you mean '-machine'?"),
  ("--", "--: invalid option"),
  ("-", "-: invalid option"),
  ("---m 1", "---m: invalid option; did you mean '-m'?"),
  ("-S=1", "-S=1: invalid option"),
  ("-m", "-m: requires an argument"),
  ("-m foo", "-m foo: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m 1x", "-m 1x: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m 1.5", "-m 1.5: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m .5G", "-m .5G: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m 1e3", "-m 1e3: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m 128MB", "-m 128MB: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m -5", "-m -5: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m size=", "-m size=: Parameter 'size' expects a non-negative number below 2^64"),
  ("-m 16E", "-m 16E: Value '16E' is out of range for parameter 'size'"),
  (
    "-m 99999999999999999999",
    "-m 99999999999999999999: Value '99999999999999999999' is out of range for parameter 'size'"
  ),
  ("-m 1.5G,foo=3", "-m 1.5G,foo=3: Invalid parameter 'foo'"),
  ("-m 128,slots=x", "-m 128,slots=x: Parameter 'slots' expects a number"),
  ("-m 128,slots=2", "-m 128,slots=2: slots specified but no max-size"),
  (
    "-m 128,maxmem=64",
    "-m 128,maxmem=64: invalid value of maxmem: maximum memory size (0x40) must be at least the"
      + " initial memory size (0x8000000)"
  ),
  (
    "-m 128,slots=1,maxmem=128M",
    "-m 128,slots=1,maxmem=128M: invalid value of maxmem: memory slots were specified but maximum"
      + " memory size (0x8000000) is equal to the initial memory size (0x8000000)"
  ),
  (
    "-m 128,slots=257,maxmem=1G",
    "-m 128,slots=257,maxmem=1G: unsupported amount of memory slots: 257"
  ),
  (
    "-machine pc,memory.size=x",
    "≠-machine pc,memory.size=x: Parameter 'memory.size' expects a non-negative number below 2^64"
  ),
  ("-smp abc", "-smp abc: Parameter 'smp.cpus' expects integer"),
  ("-smp 2,sockets=1k", "-smp 2,sockets=1k: Parameter 'smp.sockets' expects integer"),
  ("-smp cpus=2,foo=1", "-smp cpus=2,foo=1: Parameter 'smp.foo' is unexpected"),
  ("-smp 2,maxcpus", "-smp 2,maxcpus: Expected '=' after parameter 'maxcpus'"),
  ("-smp 2,,3", "-smp 2,,3: Invalid parameter ''"),
  (
    "-smp 0",
    "≠-smp 0: Invalid CPU topology: CPU topology parameters must be greater than zero"
  ),
  (
    "-smp 2,cores=3",
    "-smp 2,cores=3: Invalid CPU topology: product of the hierarchy must match maxcpus:"
      + " sockets (0) * dies (1) * cores (3) * threads (1) != maxcpus (2)"
  ),
  (
    "-machine none -smp 2,cores=3",
    "-smp 2,cores=3: Invalid CPU topology: product of the hierarchy must match maxcpus:"
      + " sockets (0) * cores (3) * threads (1) != maxcpus (2)"
  ),
  (
    "-smp 4,maxcpus=2",
    "-smp 4,maxcpus=2: Invalid CPU topology: maxcpus must be equal to or greater than smp:"
      + " sockets (1) * dies (1) * cores (2) * threads (1) == maxcpus (2) < smp_cpus (4)"
  ),
  (
    "-smp 3,sockets=2,cores=2,maxcpus=5",
    "-smp 3,sockets=2,cores=2,maxcpus=5: Invalid CPU topology: product of the hierarchy must match"
      + " maxcpus: sockets (2) * dies (1) * cores (2) * threads (1) != maxcpus (5)"
  ),
  (
    "-smp 300",
    "-smp 300: Invalid SMP CPUs 300. The max CPUs supported by machine 'pc-i440fx-7.2' is 255"
  ),
  (
    "-machine none -smp 2",
    "-smp 2: Invalid SMP CPUs 2. The max CPUs supported by machine 'none' is 1"
  ),
  (
    "-smp 2,clusters=2", "-smp 2,clusters=2: clusters not supported by this machine's CPU topology"
  ),
  (
    "-machine none -smp 2,sockets=2,cores=2,threads=2,dies=2",
    "-smp 2,sockets=2,cores=2,threads=2,dies=2: dies not supported by this machine's CPU topology"
  ),
  ("-name foo,bar=3", "-name foo,bar=3: Invalid parameter 'bar'"),
  (
    "-name guest=a,debug-threads=foo",
    "-name guest=a,debug-threads=foo: Parameter 'debug-threads' expects 'on' or 'off'"
  ),
  ("-uuid foo", "-uuid foo: failed to parse UUID string: wrong format"),
  (
    "-uuid {12345678-1234-1234-1234-123456789012}",
    "-uuid {12345678-1234-1234-1234-123456789012}: failed to parse UUID string: wrong format"
  ),
  ("-machine foo", "-machine foo: unsupported machine type"),
  ("-machine pd", "≠-machine pd: unsupported machine type; did you mean 'pc'?"),
  ("-machine pc,foo=3", "-machine pc,foo=3: Property 'pc-i440fx-7.2-machine.foo' not found"),
  (
    "-machine pc,hpte=on",
    "-machine pc,hpte=on: Property 'pc-i440fx-7.2-machine.hpte' not found; did you mean 'hpet'?"
  ),
  ("-machine none,hpet=off", "-machine none,hpet=off: Property 'none-machine.hpet' not found"),
  ("-no-hpet -machine none", "-no-hpet: Property 'none-machine.hpet' not found"),
  ("-no-acpi -machine none", "-no-acpi: Property 'none-machine.acpi' not found"),
  ("-machine pc,hpet=foo", "-machine pc,hpet=foo: Parameter 'hpet' expects 'on' or 'off'"),
  ("-machine pc,smm=foo", "-machine pc,smm=foo: Parameter 'smm' does not accept value 'foo'"),
  ("-machine pc,usb", "-machine pc,usb: Expected '=' after parameter 'usb'"),
  ("-machine pc,=3", "-machine pc,=3: Invalid parameter ''"),
  ("-machine pc,a..b=3", "-machine pc,a..b=3: Invalid parameter 'a..b'"),
  ("-machine pc,1x=3", "-machine pc,1x=3: Invalid parameter '1x'"),
  (
    "-machine pc,memory-backend=nope",
    "-machine pc,memory-backend=nope: Memory backend 'nope' not found"
  ),
  (
    "-machine pc,smm=on",
    "≠-machine pc,smm=on: machine property 'smm=on' is refused: it is not emulated yet"
  ),
  ("-append foo", "-append foo: -append only allowed with -kernel option"),
  ("-initrd foo", "-initrd foo: -initrd only allowed with -kernel option"),
  ("-accel foo", "-accel foo: invalid accelerator foo"),
  ("-accel tgc", "-accel tgc: invalid accelerator tgc; did you mean 'tcg'?"),
  ("-machine accel=foo:bar", "-machine accel=foo:bar: invalid accelerator foo"),
  ("-machine accel=", "-machine accel=: no accelerator found"),
  ("-accel tcg,foo=1", "-accel tcg,foo=1: Property 'tcg-accel.foo' not found"),
  ("-accel tcg,tb-size=abc", "-accel tcg,tb-size=abc: Parameter 'tb-size' expects uint64"),
  ("-accel tcg,tb-size=1M", "-accel tcg,tb-size=1M: Parameter 'tb-size' expects uint64"),
  ("-accel tcg,tb-size=-1", "-accel tcg,tb-size=-1: Parameter 'tb-size' expects uint32_t"),
  (
    "-accel tcg,tb-size=4294967296",
    "-accel tcg,tb-size=4294967296: Parameter 'tb-size' expects uint32_t"
  ),
  (
    "-accel tcg,split-wx=foo",
    "-accel tcg,split-wx=foo: Parameter 'split-wx' expects 'on' or 'off'"
  ),
  (
    "-accel tcg,x-max-insns=0",
    "≠-accel tcg,x-max-insns=0: Parameter 'x-max-insns' expects a number from 1"
  ),
  (
    "-accel tcg,x-tlb-entries=3",
    "≠-accel tcg,x-tlb-entries=3: Parameter 'x-tlb-entries' expects a power of two or 0"
  ),
  ("-dfilter 0x1000", "-dfilter 0x1000: Bad range specifier"),
  ("-dfilter 0x2000..0x1000", "-dfilter 0x2000..0x1000: Invalid range"),
  ("-dfilter 0x1000+", "-dfilter 0x1000+: Invalid number to the right of +"),
  ("-dfilter 0x1000...0x2000", "-dfilter 0x1000...0x2000: Invalid number to the right of .."),
  ("-dfilter 0x1000-0x2000", "-dfilter 0x1000-0x2000: Invalid range"),
  ("-accel tcg,thread=foo", "-accel tcg,thread=foo: Invalid 'thread' setting foo"),
  (
    "-accel kvm,kernel-irqchip=foo",
    "-accel kvm,kernel-irqchip=foo: Parameter 'kernel-irqchip' does not accept value 'foo'"
  ),
  (
    "-accel tcg -machine accel=kvm",
    "-accel tcg: The -accel and \"-machine accel=\" options are incompatible"
  ),
  (
    "-enable-kvm -accel tcg",
    "-accel tcg: The -accel and \"-machine accel=\" options are incompatible"
  ),
  (
    "-enable-kvm -machine kernel-irqchip=split",
    "≠-machine kernel-irqchip=split: kernel-irqchip=split is not supported: interrupt controllers"
      + " are in user space, so that interrupts can be routed between nodes (use"
      + " kernel-irqchip=off or leave it out)"
  ),
  (
    "-machine pc,accel=tcg,kernel_irqchip=on",
    "≠-machine pc,accel=tcg,kernel_irqchip=on: kernel-irqchip=on is not supported: interrupt"
      + " controllers are in user space, so that interrupts can be routed between nodes (use"
      + " kernel-irqchip=off or leave it out)"
  ),
  ("-cpu ''", "-cpu : -cpu option cannot be empty"),
  ("-boot zz", "-boot zz: Invalid boot device 'z'"),
  ("-boot abcd", "≠-boot abcd: Too many boot devices for PC"),
  ("-boot order=e", "≠-boot order=e: Invalid boot device for PC: 'e'"),
  ("-boot order=aa", "-boot order=aa: Boot device 'a' was given twice"),
  ("-boot foo=1", "-boot foo=1: Parameter 'boot.foo' is unexpected"),
  ("-boot menu=foo", "-boot menu=foo: Parameter 'boot.menu' expects 'on' or 'off'"),
  ("-boot c,menu", "-boot c,menu: Expected '=' after parameter 'menu'"),
  (
    "-boot splash-time=foo", "-boot splash-time=foo: Parameter 'boot.splash-time' expects integer"
  ),
  (
    "-boot reboot-timeout=99999999",
    "-boot reboot-timeout=99999999: reboot timeout is invalid,it should be a value between -1 and"
      + " 65535"
  ),
  ("-rtc base=foo", "-rtc base=foo: invalid datetime format"),
  ("-rtc base=2020-13-01", "≠-rtc base=2020-13-01: invalid datetime format"),
  ("-rtc base=2021-02-29", "≠-rtc base=2021-02-29: invalid datetime format"),
  ("-rtc clock=foo", "-rtc clock=foo: invalid option value 'foo'"),
  ("-rtc driftfix=foo", "-rtc driftfix=foo: invalid option value 'foo'"),
  ("-rtc base=utc,foo=1", "-rtc base=utc,foo=1: Invalid parameter 'foo'"),
  ("-action panic=foo", "-action panic=foo: Parameter 'panic' does not accept value 'foo'"),
  ("-action foo=1", "-action foo=1: Invalid parameter 'foo'"),
  ("-action reboot=none", "-action reboot=none: Parameter 'reboot' does not accept value 'none'"),
  (
    "-watchdog-action foo", "-watchdog-action foo: Parameter 'watchdog' does not accept value 'foo'"
  ),
  ("-machine none -fw_cfg opt/x,string=1", "-fw_cfg opt/x,string=1: fw_cfg device not available"),
  (
    "-fw_cfg name=opt/x,string=a,file=b",
    "-fw_cfg name=opt/x,string=a,file=b: name, plus exactly one of file, string and gen_id, are"
      + " needed"
  ),
  ("-fw_cfg foo=opt/x,string=a", "-fw_cfg foo=opt/x,string=a: Invalid parameter 'foo'"),
  (
    "-fw_cfg name=opt/xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,string=a",
    "-fw_cfg name=opt/xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,"
      + "string=a: name too long (max. 55 char)"
  ),
  (
    "-fw_cfg name=opt/x,string=a -fw_cfg name=opt/x,string=b",
    "-fw_cfg name=opt/x,string=b: duplicate fw_cfg file name: opt/x"
  ),
  ("-device id=foo", "-device id=foo: Parameter 'driver' is missing"),
  ("-device ''", "-device : Parameter 'driver' is missing"),
  ("-device '{}'", "-device {}: Parameter 'driver' is missing"),
  ("-device '{\"driver\":1}'", "-device {\"driver\":1}: Parameter 'driver' is missing"),
  (
    "-device '{\"driver\":\"foo\"'", "-device {\"driver\":\"foo\": JSON parse error, premature EOI"
  ),
  (
    "-device isa-debug-exit,id=a -device isa-debug-exit,id=a",
    "-device isa-debug-exit,id=a: Duplicate ID 'a' for device"
  ),
  (
    "-device isa-debug-exit,id=1a",
    "-device isa-debug-exit,id=1a: Parameter 'id' expects an identifier"
  ),
  (
    "-global driver=foo",
    "-global driver=foo: options 'driver', 'property', and 'value' are required"
  ),
  ("-global a.=c", "-global a.=c: Invalid parameter 'a.'"),
  ("-global .b=c", "-global .b=c: Invalid parameter '.b'"),
  ("-set foo", "-set foo: can't parse: \"foo\""),
  ("-set chardev.x.y", "-set chardev.x.y: can't parse: \"chardev.x.y\""),
  ("-set memory..size=1G", "-set memory..size=1G: can't parse: \"memory..size=1G\""),
  ("-set device.x.y=1", "-set device.x.y=1: there is no device \"x\" defined"),
  ("-set foo.x.y=1", "-set foo.x.y=1: There is no option group 'foo'"),
  (
    "-chardev null,id=c -set chardev.c.foo=x", "-set chardev.c.foo=x: Invalid parameter 'foo'"
  ),
  ("-msg timestamp=foo", "-msg timestamp=foo: Parameter 'timestamp' expects 'on' or 'off'"),
  ("-overcommit foo=on", "-overcommit foo=on: Invalid parameter 'foo'"),
  (
    "-overcommit mem-lock=foo",
    "-overcommit mem-lock=foo: Parameter 'mem-lock' expects 'on' or 'off'"
  ),
  ("-sandbox foo", "-sandbox foo: Parameter 'enable' expects 'on' or 'off'"),
  ("-sandbox on,foo=bar", "-sandbox on,foo=bar: Invalid parameter 'foo'"),
  ("-sandbox on,spawn=children", "-sandbox on,spawn=children: invalid argument for spawn"),
  (
    "-sandbox on,elevateprivileges=foo",
    "-sandbox on,elevateprivileges=foo: invalid argument for elevateprivileges"
  ),
  ("-display foo", "-display foo: Parameter 'type' does not accept value 'foo'"),
  ("-monitor nonesuch", "≠-monitor nonesuch: 'nonesuch' is not a valid char driver"),
  (
    "-display gtk",
    "≠-display gtk: display 'gtk' is not supported yet; use -nographic, or -display none with -serial"
  ),
  ("-display none,foo=1", "-display none,foo=1: Parameter 'foo' is unexpected"),
  ("-display ''", "-display : Parameter 'type' is missing"),
  ("-vga foo", "-vga foo: unknown vga type: foo"),
  ("-vga std", "≠-vga std: video card 'std' is not supported yet; use -vga none"),
  ("-readconfig nosuch", "-readconfig nosuch: Could not open 'nosuch': No such file or directory"),
  ("-echr foo", "≠-echr foo: Bad argument to echr"),
  ("-d int,op", "≠-d int,op: log item 'op' is not supported"),
  (
    "-overcommit cpu-pm=on",
    "≠-overcommit cpu-pm=on: cpu-pm=on is not supported: interrupt controllers are in user space and"
      + " must see a vCPU halt, so HLT and MWAIT are not left to the guest"
  ),
  ("-k klingon", "≠-k klingon: could not read keymap file: 'klingon'"),
  (
    "-machine max-ram-below-4g=5G",
    "≠-machine max-ram-below-4g=5G: Machine option 'max-ram-below-4g=5368709120' expects size less"
      + " than or equal to 4G"
  ),
  (
    "-machine smbios-entry-point-type=63",
    "≠-machine smbios-entry-point-type=63: Parameter 'smbios-entry-point-type' does not accept value"
      + " '63'; did you mean '64'?"
  ),
  ("-d int,foo", "≠-d int,foo: unknown log item 'foo'"),
  ("-daemonize -nographic", "-nographic: -nographic cannot be used with -daemonize"),
  ("-audiodev none", "-audiodev none: Parameter 'id' is missing"),
  ("-audiodev none,id=a,x=1", "-audiodev none,id=a,x=1: Parameter 'x' is unexpected"),
  ("-audiodev x,id=a", "-audiodev x,id=a: Parameter 'driver' does not accept value 'x'"),
  ("-daemonize -serial stdio", "-serial stdio: cannot use stdio with -daemonize"),
  (
    "-chardev stdio,id=a -chardev stdio,id=b",
    "-chardev stdio,id=b: cannot use stdio by multiple character devices"
  ),
  ("-serial bogus", "-serial bogus: 'bogus' is not a valid char driver"),
  ("-serial bogus:1", "-serial bogus:1: 'bogus:1' is not a valid char driver"),
  ("-serial null:", "-serial null:: 'null:' is not a valid char driver"),
  ("-serial stdoi", "-serial stdoi: 'stdoi' is not a valid char driver; did you mean 'stdio'?"),
  (
    "-serial stdio,signal=off",
    "-serial stdio,signal=off: 'stdio,signal=off' is not a valid char driver"
  ),
  ("-serial mon:none", "-serial mon:none: 'none' is not a valid char driver"),
  ("-serial mon:mon:null", "-serial mon:mon:null: 'mon:null' is not a valid char driver"),
  ("-serial ''", "-serial : '' is not a valid char driver"),
  ("-serial tcp:", "≠-serial tcp:: '' is not HOST:PORT"),
  ("-serial tcp:localhost", "≠-serial tcp:localhost: 'localhost' is not HOST:PORT"),
  ("-serial vc:80x", "≠-serial vc:80x: '80x' is no console size (WIDTHxHEIGHT or COLSCxROWSC)"),
  (
    "-serial tcp::0,server=foo",
    "-serial tcp::0,server=foo: Parameter 'server' expects 'on' or 'off'"
  ),
  ("-serial tcp::0,server,bogus=1", "-serial tcp::0,server,bogus=1: Invalid parameter 'bogus'"),
  ("-serial chardev:nope", "≠-serial chardev:nope: chardev \"nope\" not found"),
  (
    "-serial unix:/x,server,reconnect=1",
    "-serial unix:/x,server,reconnect=1: 'reconnect' option is incompatible with socket in server"
      + " listen mode"
  ),
  (
    "-serial websocket:localhost:1",
    "-serial websocket:localhost:1: Websocket client is not implemented"
  ),
  ("-chardev null,id=serial0 -serial null", "-serial null: Duplicate ID 'serial0' for chardev"),
  (
    "-parallel null -parallel null -parallel null -parallel null",
    "-parallel null: too many parallel ports"
  ),
  ("-monitor bogus", "-monitor bogus: 'bogus' is not a valid char driver"),
  ("-qmp none", "-qmp none: 'none' is not a valid char driver"),
  ("-qmp chardev:nope", "-qmp chardev:nope: chardev \"nope\" not found"),
  (
    "-chardev null,id=a -qmp chardev:a -monitor chardev:a",
    "-monitor chardev:a: Duplicate ID 'a' for mon"
  ),
  ("-debugcon none", "-debugcon none: 'none' is not a valid char driver"),
  ("-chardev socket", "-chardev socket: chardev: no id specified"),
  ("-chardev ''", "-chardev : chardev: no id specified"),
  ("-chardev id=c", "-chardev id=c: chardev: \"c\" missing backend"),
  ("-chardev bogus,id=c", "-chardev bogus,id=c: 'bogus' is not a valid char driver name"),
  (
    "-chardev sokcet,id=c,path=x",
    "-chardev sokcet,id=c,path=x: 'sokcet' is not a valid char driver name; did you mean 'socket'?"
  ),
  ("-chardev null,id=1c", "-chardev null,id=1c: Parameter 'id' expects an identifier"),
  ("-chardev null,id=c -chardev null,id=c", "-chardev null,id=c: Duplicate ID 'c' for chardev"),
  ("-chardev null,id=c,foo=1", "-chardev null,id=c,foo=1: Invalid parameter 'foo'"),
  (
    "-chardev null,id=c,mux=foo",
    "-chardev null,id=c,mux=foo: Parameter 'mux' expects 'on' or 'off'"
  ),
  (
    "-chardev socket,id=c,path=x,host=y",
    "-chardev socket,id=c,path=x,host=y: None or one of 'path', 'fd' or 'host' option required."
  ),
  ("-chardev socket,id=c,host=y", "-chardev socket,id=c,host=y: chardev: socket: no port given"),
  (
    "-chardev socket,id=c,path=x,wait=on",
    "-chardev socket,id=c,path=x,wait=on: 'wait' option is incompatible with socket in client"
      + " connect mode"
  ),
  (
    "-chardev socket,id=c,path=x,delay=off,nodelay=on",
    "-chardev socket,id=c,path=x,delay=off,nodelay=on: 'delay' and 'nodelay' are mutually exclusive"
  ),
  (
    "-chardev socket,id=c,path=x,tls-authz=t",
    "-chardev socket,id=c,path=x,tls-authz=t: 'tls_authz' option requires 'tls_creds' option"
  ),
  (
    "-chardev socket,id=c,fd=foo,server=on",
    "-chardev socket,id=c,fd=foo,server=on: Unable to parse FD number foo"
  ),
  (
    "-chardev socket,id=c,host=h,port=1,to=x",
    "-chardev socket,id=c,host=h,port=1,to=x: Parameter 'to' expects a number"
  ),
  ("-chardev file,id=c", "-chardev file,id=c: chardev: file: no filename given"),
  ("-chardev pipe,id=c", "-chardev pipe,id=c: chardev: pipe: no device path given"),
  ("-chardev serial,id=c", "-chardev serial,id=c: chardev: serial/tty: no device path given"),
  ("-chardev parallel,id=c", "-chardev parallel,id=c: chardev: parallel: no device path given"),
  ("-chardev udp,id=c", "-chardev udp,id=c: chardev: udp: remote port not specified"),
  ("-chardev mux,id=c", "-chardev mux,id=c: chardev: mux: no chardev given"),
  ("-chardev mux,id=c,chardev=d", "-chardev mux,id=c,chardev=d: mux: base chardev d not found"),
  (
    "-chardev ringbuf,id=c,size=3",
    "-chardev ringbuf,id=c,size=3: size of ringbuf chardev must be power of two"
  ),
  ("-chardev vc,id=c,cols=foo", "-chardev vc,id=c,cols=foo: Parameter 'cols' expects a number"),
  ("-mon foo", "-mon foo: chardev \"foo\" not found"),
  ("-mon mode=control", "-mon mode=control: Parameter 'chardev' is missing"),
  ("-mon chardev=c,foo=1", "-mon chardev=c,foo=1: Invalid parameter 'foo'"),
  (
    "-chardev null,id=c -mon chardev=c,mode=bogus",
    "-mon chardev=c,mode=bogus: Parameter 'mode' does not accept value 'bogus'"
  ),
  (
    "-chardev null,id=c -mon chardev=c,pretty=on",
    "-mon chardev=c,pretty=on: 'pretty' is not compatible with HMP monitors"
  ),
  ("-chardev null,id=c -mon chardev=c -mon chardev=c", "-mon chardev=c: Device 'c' is in use"),
  (
    "-chardev null,id=c -mon chardev=c,id=c -mon chardev=c,id=c",
    "-mon chardev=c,id=c: Duplicate ID 'c' for mon"
  ),
  ("-chardev null,id=c -mon c -serial chardev:c", "≠-serial chardev:c: Device 'c' is in use"),
  (
    "-drive if=foo,file=x",
    "-drive if=foo,file=x: unsupported bus type 'foo'"
  ),
  (
    "-drive if=ide,index=1,unit=0,file=x",
    "-drive if=ide,index=1,unit=0,file=x: index cannot be used with bus and unit"
  ),
  (
    "-drive if=ide,bus=0,unit=2,file=x",
    "-drive if=ide,bus=0,unit=2,file=x: unit 2 too big (max is 1)"
  ),
  (
    "-drive if=ide,unit=x,file=x",
    "-drive if=ide,unit=x,file=x: Parameter 'unit' expects a number"
  ),
  (
    "-drive if=none,file=x,media=foo",
    "-drive if=none,file=x,media=foo: 'foo' invalid media"
  ),
  (
    "-drive if=none,file=x,cache=foo",
    "-drive if=none,file=x,cache=foo: invalid cache option"
  ),
  (
    "-drive if=none,file=x,aio=foo",
    "-drive if=none,file=x,aio=foo: invalid aio option"
  ),
  (
    "-drive if=none,file=x,detect-zeroes=foo",
    "-drive if=none,file=x,detect-zeroes=foo: invalid parameter value: foo"
  ),
  (
    "-drive if=none,file=x,werror=foo",
    "-drive if=none,file=x,werror=foo: 'foo' invalid write error action"
  ),
  (
    "-drive if=none,file=x,rerror=enospc",
    "-drive if=none,file=x,rerror=enospc: 'enospc' invalid read error action"
  ),
  (
    "-drive if=floppy,file=x,werror=stop",
    "-drive if=floppy,file=x,werror=stop: werror is not supported by this bus type"
  ),
  (
    "-drive if=none,file=x,snapshot=foo",
    "-drive if=none,file=x,snapshot=foo: Parameter 'snapshot' expects 'on' or 'off'"
  ),
  (
    "-drive if=none,file=x,readonly=foo",
    "-drive if=none,file=x,readonly=foo: Parameter 'read-only' expects 'on' or 'off'"
  ),
  (
    "-drive if=none,file=x,driver=raw,format=raw",
    "-drive if=none,file=x,driver=raw,format=raw: Cannot specify both 'driver' and 'format'"
  ),
  (
    "-drive if=none,file=x,bps=1,throttling.bps-total=1",
    "-drive if=none,file=x,bps=1,throttling.bps-total=1: 'throttling.bps-total' and its alias 'bps' can't be used at the same time"
  ),
  (
    "-drive if=none,file=x,throttling.bps-total=1,throttling.bps-read=2",
    "-drive if=none,file=x,throttling.bps-total=1,throttling.bps-read=2: bps/iops/max total values and read/write values cannot be used at the same time"
  ),
  (
    "-drive if=none,file=x,throttling.bps-total=-1",
    "-drive if=none,file=x,throttling.bps-total=-1: bps/iops/max values must be within [0, 1000000000000000]"
  ),
  (
    "-drive if=none,file=x,throttling.bps-total-max=5",
    "-drive if=none,file=x,throttling.bps-total-max=5: bps_max/iops_max require corresponding bps/iops values"
  ),
  (
    "-drive if=none,file=x,throttling.iops-total=9,throttling.iops-total-max=5",
    "-drive if=none,file=x,throttling.iops-total=9,throttling.iops-total-max=5: bps_max/iops_max cannot be lower than bps/iops"
  ),
  (
    "-drive if=none,file=x,throttling.iops-total=9,throttling.iops-total-max-length=5",
    "-drive if=none,file=x,throttling.iops-total=9,throttling.iops-total-max-length=5: burst length set without burst rate"
  ),
  (
    "-drive if=none,file=x,throttling.iops-size=9",
    "-drive if=none,file=x,throttling.iops-size=9: iops size requires an iops value to be set"
  ),
  (
    "-drive if=none,file=x,throttling.bps-total=5,throttling.bps-total-max=9,throttling.bps-total-max-length=0",
    "-drive if=none,file=x,throttling.bps-total=5,throttling.bps-total-max=9,throttling.bps-total-max-length=0: the burst length cannot be 0"
  ),
  (
    "-drive if=none,file=x,id=1x",
    "-drive if=none,file=x,id=1x: Parameter 'id' expects an identifier"
  ),
  (
    "-blockdev driver=file",
    "-blockdev driver=file: Parameter 'filename' is missing"
  ),
  (
    "-blockdev driver=foo,node-name=x",
    "-blockdev driver=foo,node-name=x: Parameter 'driver' does not accept value 'foo'"
  ),
  (
    "-blockdev driver=null-co",
    "-blockdev driver=null-co: 'node-name' must be specified for the root node"
  ),
  (
    "-blockdev driver=null-co,node-name=x,foo=bar",
    "-blockdev driver=null-co,node-name=x,foo=bar: Parameter 'foo' is unexpected"
  ),
  (
    "-blockdev driver=null-co,node-name=x,size=foo",
    "-blockdev driver=null-co,node-name=x,size=foo: Parameter 'size' expects integer"
  ),
  (
    "-blockdev null-co,node-name=x,read-only=foo",
    "-blockdev null-co,node-name=x,read-only=foo: Parameter 'read-only' expects 'on' or 'off'"
  ),
  (
    "-blockdev help",
    "-blockdev help: Help is not available for this option"
  ),
  (
    "-blockdev raw,node-name=x,file.driver=file",
    "-blockdev raw,node-name=x,file.driver=file: Parameter 'file.filename' is missing"
  ),
  (
    "-blockdev '{\"driver\":\"null-co\",\"node-name\":\"x\",\"read-only\":\"on\"}'",
    "-blockdev {\"driver\":\"null-co\",\"node-name\":\"x\",\"read-only\":\"on\"}: Invalid parameter type for 'read-only', expected: boolean"
  ),
  ("-blockdev '{'", "-blockdev {: JSON parse error, premature EOI"),
  (
    "-drive if=none,id=a -drive if=none,id=a",
    "-drive if=none,id=a: Duplicate ID 'a' for drive"
  ),
  (
    "-drive if=ide,media=cdrom,index=2 -cdrom x",
    "-cdrom x: drive with bus=1, unit=0 (index=2) exists"
  ),
  (
    "-drive if=ide,bus=5", "-drive if=ide,bus=5: machine type does not support if=ide,bus=5,unit=0"
  ),
  ("-drive if=sd", "≠-drive if=sd: machine type does not support if=sd,bus=0,unit=0"),
  (
    "-drive if=none,file=x,copy-on-read=on",
    "≠-drive if=none,file=x,copy-on-read=on: copy-on-read is not supported yet"
  ),
  ("-fda x", "≠-fda x: floppy drives are not supported yet"),
  (
    "-local-cpu 2",
    "≠-local-cpu 2: 2 vCPUs on this node, and the machine has 1; give 1, or raise -smp"
  ),
  (
    "-kernel k -machine none",
    "≠-kernel k: The -kernel parameter is not supported by machine 'none'"
  ),
]
