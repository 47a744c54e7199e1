import CX86
import DeviceModel
import Host
import Synchronization

/// What the software CPU writes to the log of `-d`. All on slow paths; each costs one relaxed load when nothing is logged.
extension Core {
  private func hex(_ value: UInt64) -> String { String(value, radix: 16) }

  private var place: String {
    "cpu=\(environment.apicID.rawValue) cpl=\(cpl) pc=\(hex(UInt64(segment(Core.cs).selector))):"
      + hex(rip)
  }

  /// `int`: an interrupt or exception is delivered, with the registers before it.
  @inline(never)
  func logEvent(_ vector: UInt8, code: UInt32?, _ kind: EventKind) {
    func hex(_ value: UInt64, _ digits: Int) -> String { TranslationLog.hex(value, digits) }
    let isSoftware = kind != .external && kind != .exception
    // RIP is behind INT n already.
    let rip = isSoftware ? environment.instructionStart : self.rip
    var text = ""
    if kind == .external { text = "Servicing hardware INT=0x\(hex(UInt64(vector), 2))\n" }
    let count = String(Core.eventCount.wrappingAdd(1, ordering: .relaxed).oldValue)
    text += String(repeating: " ", count: max(0, 6 - count.utf8.count)) + count
    text += ": v=\(hex(UInt64(vector), 2)) e=\(hex(UInt64(code ?? 0), 4))"
    text += " i=\(isSoftware ? 1 : 0) cpl=\(cpl)"
    text += " IP=\(hex(UInt64(segment(Core.cs).selector), 4)):\(hex(rip, 16))"
    text += " pc=\(hex((rip &+ segment(Core.cs).base) & linearMask, 16))"
    text += " SP=\(hex(UInt64(segment(Core.ss).selector), 4)):\(hex(r64(4), 16))"
    text +=
      vector == ExceptionVector.pageFault
      ? " CR2=\(hex(cr2, 16))\n" : " env->regs[R_EAX]=\(hex(r64(0), 16))\n"
    text += logRegisters(withFloatingPoint: false, at: rip)
    Log.write(.interrupts, String(text.dropLast()))
  }

  /// Events of the log so far, of all vCPUs.
  private static let eventCount = Atomic<UInt64>(0)

  /// `mmu`: an access that the page tables do not allow.
  @inline(never)
  func logPageFault(_ linear: UInt64, _ code: UInt32) {
    Log.write(.mmu, "page fault at \(hex(linear)) e=\(hex(UInt64(code))) cr3=\(hex(cr3)) \(place)")
  }

  /// `pcall`: a far transfer in protected mode.
  @inline(never)
  func logTransfer(_ what: String, _ selector: UInt16, _ offset: UInt64) {
    Log.write(
      .protectedModeCalls, "\(what) to \(hex(UInt64(selector))):\(hex(offset)) \(place)")
  }
}
