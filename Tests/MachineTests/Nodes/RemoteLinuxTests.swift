import Machine
import Support
import Testing

/// Linux on several nodes of one process.
@Suite struct RemoteLinuxTests {
  /// Also when the boot processor is not on the node that has the devices and loads the kernel.
  @Test(arguments: [[0, 1], [1, 0]])
  func linuxFindsAllItsProcessorsOnTwoNodes(_ placement: [Int]) async throws {
    guard let folder = Guest.folder else { return }
    try await MachinesOfACluster.run(
      [
        "-m", "256", "-kernel", folder + "/vmlinuz", "-initrd", folder + "/initrd.gz", "-serial",
        "file:FOLDER/out", "-append",
        "console=ttyS0 panic=-1 no_timer_check goliath.run=nproc;poweroff+-f",
      ], placement: placement
    ) { cluster in
      try await cluster.machines[0].resume()
      #expect(
        await cluster.expect("HELLO-FROM-INIT", seconds: 300), "\(cluster.output().suffix(3000))")
      #expect(await cluster.until(seconds: 60) { await cluster.statuses[0] == 0 })
      #expect(cluster.output().contains("\r\n2\r\n"), "\(cluster.output().suffix(3000))")
      #expect(await cluster.until { await cluster.statuses[1] == 0 })
    }
  }
}
