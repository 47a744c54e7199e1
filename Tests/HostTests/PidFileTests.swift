import Glibc
import Host
import Support
import Testing

@Suite struct PidFileTests {
  @Test func fileHoldsTheProcessAndGoesWithIt() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let file = try PidFile(folder + "/pid")
    let text = String(decoding: try FileDescriptor.contents(of: folder + "/pid"), as: UTF8.self)
    #expect(text == "\(getpid())\n")
    file.remove()
    #expect(!Process.isThere(folder + "/pid"))
  }

  @Test func aFolderThatIsNotThereIsNamed() {
    let error = #expect(throws: PidFileError.self) { _ = try PidFile("/nowhere/pid") }
    #expect(error?.message == "Could not create '/nowhere/pid': No such file or directory")
  }
}
