import DeviceModel
import Guests
import Host
import Machine
import Testing

/// Accesses of vCPUs of other nodes to devices on node 0 (distributed.md, section 4): the same as node 0's own.
@Suite struct RemoteAccessTests {
  private static let started = FlatGuest.words + 0x100
  private static let turn = FlatGuest.words + 0x200
  /// Where each vCPU leaves what it has read.
  private static let results: UInt32 = 0x10_0000
  private static let resultSize: UInt32 = 0x1_0000
  private static let text: UInt32 = 0x18_0000
  private static let hpet: UInt32 = 0xFED0_0000

  /// The accesses of one vCPU; what they read goes to memory from `base` on. Answers where it ends.
  private static func accesses(_ guest: inout FlatGuest, _ vcpu: UInt32) -> UInt32 {
    var next = results + vcpu * resultSize
    func keep() {
      guest.store(to: next)
      next += 4
    }
    // A register of the host bridge that keeps what is written, in all widths.
    guest.configure(0, 0xA0, 0x1122_3344, width: 4)
    for (register, width) in [(0xA0, 4), (0xA2, 2), (0xA1, 1), (0xA3, 1)] as [(UInt32, Int)] {
      guest.configuration(0, register, width: width)
      keep()
    }
    guest.configure(0, 0xA3, 0x99, width: 1)
    guest.configure(0, 0xA0, 0xABCD, width: 2)
    guest.configuration(0, 0xA0, width: 4)
    keep()
    // Nobody is there.
    for width in [1, 2, 4] {
      guest.a.emit(0x31, 0xC0)  // xor eax, eax
      guest.input(0x1230, width: width)
      keep()
    }
    // The clock's memory.
    guest.out(0x70, 0x35)
    guest.out(0x71, 0x5A)
    guest.out(0x70, 0x35)
    guest.a.emit(0x31, 0xC0)
    guest.input(0x71)
    keep()
    strings(&guest, &next)
    memory(&guest, &next)
    return next
  }

  /// rep prefix, address-size prefix, operand-size prefix and a string instruction.
  private static func string(
    _ guest: inout FlatGuest, _ bytes: UInt8..., port: UInt16 = 0, from: UInt32 = 0,
    to: UInt32 = 0, count: UInt32, isBackward: Bool = false
  ) {
    guest.a.load(.si, from)
    guest.a.load(.di, to)
    guest.a.load(.cx, count)
    guest.a.load(.dx, UInt32(port))
    guest.a.emit(isBackward ? 0xFD : 0xFC)
    for byte in bytes { guest.a.emit(byte) }
    guest.a.emit(0xFC)
  }

  private static func strings(_ guest: inout FlatGuest, _ next: inout UInt32) {
    func selectDirectory() { guest.out(0x510, 0x19, width: 2) }
    // INSB: the directory of fw_cfg's files; off all boundaries, across a page, backwards, with 16-bit addresses.
    selectDirectory()
    string(&guest, 0xF3, 0x6C, port: 0x511, to: next + 1, count: 100)
    next += 0x100
    selectDirectory()
    let page = (next + 0xFFF) & ~0xFFF
    string(&guest, 0xF3, 0x6C, port: 0x511, to: page + 0x1000 - 37, count: 150)
    next = page + 0x1100
    selectDirectory()
    string(&guest, 0xF3, 0x6C, port: 0x511, to: next + 60, count: 50, isBackward: true)
    next += 0x40
    selectDirectory()
    string(&guest, 0x67, 0xF3, 0x6C, port: 0x511, to: 0x7010, count: 77)
    string(&guest, 0xF3, 0xA4, from: 0x7010, to: next, count: 77)
    next += 0x80
    // No repetition; none wanted.
    selectDirectory()
    string(&guest, 0x6C, port: 0x511, to: next, count: 9)
    guest.a.emit(0x89, 0xC8)  // mov eax, ecx
    guest.store(to: next + 4)
    guest.a.emit(0x89, 0xF8)  // mov eax, edi
    guest.a.emit(0x2D)  // sub eax, next
    guest.a.emit32(next)
    guest.store(to: next + 8)
    string(&guest, 0xF3, 0x6C, port: 0x511, to: next + 12, count: 0)
    next += 16
    // INSD and INSW: as often as asked.
    string(&guest, 0xF3, 0x6D, port: 0xCFC, to: next + 2, count: 20)
    next += 0x60
    string(&guest, 0xF3, 0x66, 0x6D, port: 0xCFE, to: next, count: 20)
    next += 0x40
    // Where the instructions leave their registers.
    guest.a.emit(0x89, 0xF8, 0x2D)  // mov eax, edi; sub eax, next
    guest.a.emit32(next)
    guest.store(to: next)
    // OUTSD: the last one stays.
    for index in 0..<UInt32(20) { guest.store(next + 8 + index * 4, 0x0101_0101 &* index) }
    string(&guest, 0xF3, 0x6F, port: 0xCFC, from: next + 8, count: 20)
    next += 0x80
    guest.configuration(0, 0xA0, width: 4)
    guest.store(to: next)
    string(&guest, 0xF3, 0x66, 0x6F, port: 0xCFC, from: next - 0x80 + 9, count: 7)
    guest.configuration(0, 0xA0, width: 4)
    guest.store(to: next + 4)
    next += 8
    // OUTSB: more than a page; backwards.
    string(&guest, 0xF3, 0x6E, port: 0xE9, from: text + 3, count: 5000)
    string(&guest, 0xF3, 0x6E, port: 0xE9, from: text + 5006, count: 5, isBackward: true)
  }

  private static func memory(_ guest: inout FlatGuest, _ next: inout UInt32) {
    func keep() {
      guest.store(to: next)
      next += 4
    }
    // The timer block's counter stands: a register of eight bytes.
    guest.store(hpet + 0x10, 0)
    guest.store(hpet + 0xF0, 0x5566_7788)
    guest.store(hpet + 0xF4, 0x1122_3344)
    // movq mm0, [from]; movq [to], mm0
    func move8(_ from: UInt32, _ to: UInt32) {
      guest.a.emit(0x0F, 0x6F, 0x05)
      guest.a.emit32(from)
      guest.a.emit(0x0F, 0x7F, 0x05)
      guest.a.emit32(to)
    }
    move8(hpet + 0xF0, next)
    next += 8
    move8(hpet, next)
    next += 8
    for offset in [0xF0, 0xF4, 0xF2, 0xF1, 0x0, 0x4, 0x3FE, 0xFFE] as [UInt32] {
      guest.load(from: hpet + offset)
      keep()
    }
    guest.a.emit(0x31, 0xC0, 0x66, 0xA1)  // xor eax, eax; mov ax, [...]
    guest.a.emit32(hpet + 0xF3)
    keep()
    guest.a.emit(0x31, 0xC0, 0xA0)  // mov al, [...]
    guest.a.emit32(hpet + 0xF6)
    keep()
    // Narrow and misaligned writes.
    guest.store8(hpet + 0xF1, 0xEE)
    guest.store16(hpet + 0xF4, 0xBEEF)
    guest.store(hpet + 0xF2, 0xCAFE_F00D)
    move8(hpet + 0xF0, next)
    next += 8
    // Eight bytes from memory to the device, and a read, a change and a write.
    guest.store(next, 0x0BAD_CAFE)
    guest.store(next + 4, 0x1234_5678)
    move8(next, hpet + 0xF0)
    next += 8
    guest.increment(hpet + 0xF0)
    guest.load(from: hpet + 0xF0)
    keep()
    guest.a.emit(0xB8)  // mov eax, 0x77; xchg [...], eax
    guest.a.emit32(0x77)
    guest.a.emit(0x87, 0x05)
    guest.a.emit32(hpet + 0xF4)
    keep()
    guest.load(from: hpet + 0xF4)
    keep()
    // Sixteen bytes.
    guest.a.emit(0x0F, 0x10, 0x05)  // movups xmm0, [...]
    guest.a.emit32(hpet + 0xF0)
    guest.a.emit(0x0F, 0x11, 0x05)
    guest.a.emit32(next)
    next += 16
    // REP MOVS out of the device: registers, beyond the end of its registers, across pages; into it.
    string(&guest, 0xF3, 0xA5, from: hpet, to: next, count: 64)
    next += 256
    string(&guest, 0xF3, 0xA4, from: hpet + 0x3F0, to: next + 1, count: 31)
    next += 32
    string(&guest, 0xF3, 0xA5, from: hpet + 0xFF0, to: next, count: 8)
    next += 32
    let page = (next + 0xFFF) & ~0xFFF
    string(&guest, 0xF3, 0xA4, from: hpet + 0xE0, to: page + 0x1000 - 13, count: 32)
    next = page + 0x1040
    guest.store(next, 0x8765_4321)
    guest.store(next + 4, 0x0FED_CBA9)
    string(&guest, 0xF3, 0xA5, from: next, to: hpet + 0xF0, count: 2)
    move8(hpet + 0xF0, next + 8)
    next += 16
    string(&guest, 0xF3, 0xA4, from: next - 13, to: hpet + 0xF0, count: 8)
    move8(hpet + 0xF0, next)
    next += 8
    // From device to device, and filled.
    string(&guest, 0xF3, 0xA5, from: hpet, to: hpet + 0xF0, count: 1)
    guest.a.emit(0xB8)
    guest.a.emit32(0x3C3C_5A5A)
    string(&guest, 0xF3, 0xAB, to: hpet + 0xF4, count: 1)
    move8(hpet + 0xF0, next)
    next += 8
    guest.a.emit(0x0F, 0x77)  // emms
  }

  @Test(arguments: FlatNodes.Layout.two)
  func allSizesAndStringsAreAsOnNodeZero(_ layout: FlatNodes.Layout) async throws {
    let routine: (UInt32) -> (inout FlatGuest) -> Void = { vcpu in
      { guest in
        guest.a.load(.ax, 0x600)
        guest.a.writeControl(4)
        if vcpu == 0 {
          // The text of OUTSB.
          guest.a.load(.ax, 0x78)
          Self.string(&guest, 0xF3, 0xAA, to: Self.text, count: 5002)
          guest.store8(Self.text + 5002, 0x79)
          for (index, character) in "olleh".utf8.enumerated() {
            guest.store8(Self.text + 5002 + UInt32(index), character)
          }
          guest.startOthers(2, started: Self.started)
        } else {
          guest.store(Self.started + 4, 1)
          guest.wait(Self.turn, is: 1)
        }
        guest.say("<")
        let end = Self.accesses(&guest, vcpu)
        guest.say(">")
        guest.store(Self.turn + 4 + vcpu * 4, end - Self.results - vcpu * Self.resultSize)
        if vcpu == 0 { guest.store(Self.turn, 1) } else { guest.say("Z") }
      }
    }
    try await FlatNodes.run(FlatGuest([routine(0), routine(1)]), layout) { nodes in
      await nodes.expect("Z")
      let once = "<" + String(repeating: "x", count: 4999) + "ohello>"
      #expect(nodes.cluster.output() == once + once + "Z")
      let length = await nodes.word(Self.turn + 4)
      #expect(length > 0x1000)
      #expect(await nodes.word(Self.turn + 8) == length)
      for offset in stride(from: 0, to: length, by: 4) {
        let own = await nodes.word(Self.results + offset)
        let other = await nodes.word(Self.results + Self.resultSize + offset)
        #expect(own == other, "result \(offset)")
      }
      // What is known without the other.
      var known: [UInt32] = []
      for index in 0..<UInt32(9) { known.append(await nodes.word(Self.results + index * 4)) }
      #expect(
        known == [
          0x1122_3344, 0x1122, 0x33, 0x11, 0x9922_ABCD, 0xFF, 0xFFFF, 0xFFFF_FFFF, 0x5A,
        ])
    }
  }

  /// vCPUs of two nodes use ports and memory of the same devices at the same time: none gets another's answer.
  @Test(arguments: [[0, 1, 2], [1, 2, 1]])
  func manyVCPUsAskAtATime(_ placement: [Int]) async throws {
    let rounds: UInt32 = 300
    let guest = FlatGuest(
      (0..<3).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.startOthers(3, started: Self.started)
            guest.store(Self.turn, 1)
          } else {
            guest.store(Self.started + UInt32(vcpu) * 4, 1)
            guest.wait(Self.turn, is: 1)
          }
          let wrong = "wrong\(vcpu)"
          let done = "done\(vcpu)"
          guest.times(rounds) { guest in
            // Each has a scratch register of its own in the serial ports, and one of the timer block.
            let port = UInt16([0x3FF, 0x2FF, 0x3EF][vcpu])
            guest.a.emit(0x89, 0xF0)  // mov eax, esi
            guest.out(port, width: 1)
            guest.input(port)
            guest.a.emit(0x89, 0xF1, 0x38, 0xC8)  // mov ecx, esi; cmp al, cl
            guest.a.jump(if: .notEqual, wrong)
            let register = Self.hpet + 0x108 + UInt32(vcpu) * 0x20
            guest.a.emit(0x89, 0x35)  // mov [register], esi
            guest.a.emit32(register)
            guest.a.emit(0x39, 0x35)  // cmp [register], esi
            guest.a.emit32(register)
            guest.a.jump(if: .notEqual, wrong)
          }
          guest.a.jump(done)
          guest.a.label(wrong)
          guest.store(Self.turn + 0x40, UInt32(vcpu + 1))
          guest.a.label(done)
          guest.increment(Self.turn + 0x80)
        }
      })
    try await FlatNodes.run(
      guest, FlatNodes.Layout(placement: placement),
      ["-serial", "null", "-serial", "null", "-serial", "null"]
    ) { nodes in
      await nodes.expect(Self.turn + 0x80, is: 3)
      #expect(await nodes.word(Self.turn + 0x40) == 0)
    }
  }
}
