import Devices
import Testing

/// The controller with nothing in its ports, by the registers of the UHCI Design Guide 1.1.
@Suite struct UHCITests {
  @Test func portsShowNothingAndKeepOnlyWhatSoftwareMaySet() {
    var model = UHCIModel()
    #expect(model.read(0x10) == 0x80 && model.read(0x11) == 0)
    model.write(0x10, width: 2, 0xFFFF)
    // Resume, reset and suspend stay; connection and enable cannot be set.
    #expect(model.read(0x10) == 0xC0 && model.read(0x11) == 0x12)
  }

  @Test func framesPassWhileItRuns() {
    var model = UHCIModel()
    #expect(model.read(0x02) == 0x20)
    model.write(0x06, width: 2, 0x7FF)
    model.skipFrames(5)
    #expect(model.read(0x06) == 0xFF && model.read(0x07) == 0x07)
    model.write(0x00, width: 2, 1)
    #expect(model.read(0x02) == 0)
    model.skipFrames(2)
    #expect(model.read(0x06) == 1 && model.read(0x07) == 0)
    model.write(0x00, width: 2, 2)
    #expect(model == UHCIModel())
  }

  @Test func aTransferMeetsNobodyAndEndsByTimeOut() {
    var words: [UInt32: UInt32] = [
      // Frame 0: a queue; its element is active, with two attempts and an interrupt on completion.
      0x1000: 0x2002,
      0x2000: 1, 0x2004: 0x3000,
      0x3000: 1, 0x3004: 1 << 23 | 2 << 27 | 1 << 24,
    ]
    var model = UHCIModel()
    model.write(0x08, width: 4, 0x1000)
    model.write(0x04, width: 2, 0xF)
    model.write(0x00, width: 2, 1)
    func frame() -> UHCIModel.Frame {
      model.write(0x00, width: 2, 0)
      model.write(0x06, width: 2, 0)
      model.write(0x00, width: 2, 1)
      return model.executeFrame(
        load: { words[$0] },
        store: {
          words[$0] = $1; return true
        })
    }
    #expect(frame().activeTransfers == 1)
    #expect(words[0x3004] == 1 << 23 | 1 << 27 | 1 << 24 | 1 << 18)
    #expect(!model.isInterruptAsserted)
    #expect(frame().activeTransfers == 1)
    #expect(words[0x3004] == 1 << 24 | 1 << 22 | 1 << 18)
    #expect(model.isInterruptAsserted)
    #expect(frame().activeTransfers == 0)
    model.write(0x02, width: 2, 3)
    #expect(!model.isInterruptAsserted)
  }

  @Test func aScheduleOutsideMemoryOrWithoutEndStopsNobody() {
    var model = UHCIModel()
    model.write(0x08, width: 4, 0x1000)
    model.write(0x00, width: 2, 1)
    // Two queues that point at each other.
    let loop: [UInt32: UInt32] = [
      0x1000: 0x2002, 0x2000: 0x3002, 0x2004: 1, 0x3000: 0x2002, 0x3004: 1,
    ]
    #expect(
      model.executeFrame(load: { loop[$0] }, store: { _, _ in true }).activeTransfers == 0)
    #expect(model.isRunning)
    _ = model.executeFrame(load: { _ in nil }, store: { _, _ in false })
    #expect(!model.isRunning && model.status & UHCIModel.Status.processError != 0)
  }
}
