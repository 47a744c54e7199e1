import Options
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
    #expect(it.cpu == CPUConfiguration(model: "host"))
    #expect((it.smp.cpus, it.smp.maxCPUs, it.smp.cores) == (2, 2, 2))
    #expect(it.memory.size == 512 << 20)
    #expect(it.boot.append == "root=/dev/ram console=ttyS0")
    #expect(
      it.chardevs.map(\.label) == ["compat_monitor0", "serial0-base", "serial0", "parallel0"])
    #expect(it.monitors.map(\.chardev) == ["compat_monitor0", "serial0"])
    #expect(it.serials == ["serial0"])
  }
}
