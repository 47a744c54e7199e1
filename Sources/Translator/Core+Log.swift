import CX86
import DeviceModel
import Host

/// What the software CPU writes to the log of `-d`. All on slow paths; each costs one relaxed load when nothing is logged.
extension Core {
  private func hex(_ value: UInt64) -> String { String(value, radix: 16) }

  private var place: String {
    "cpu=\(environment.apicID.rawValue) cpl=\(cpl) pc=\(hex(UInt64(segment(Core.cs).selector))):"
      + hex(rip)
  }

  /// `int`: an exception or a software interrupt is delivered.
  @inline(never)
  func logEvent(_ vector: UInt8, code: UInt32?, _ kind: EventKind) {
    let error = code.map { " e=\(hex(UInt64($0)))" } ?? ""
    let address = vector == ExceptionVector.pageFault ? " cr2=\(hex(cr2))" : ""
    Log.write(.interrupts, "v=\(hex(UInt64(vector)))\(error) \(kind) \(place)\(address)")
  }

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
