import Guests

/// A guest of a few routines, one for each vCPU, in 32-bit protected mode without paging: the firmware of its machine.
///
/// vCPU 0 starts at the reset vector, copies the code to RAM and runs routine 0; the others wait for INIT and start-up at page `startPage`,
/// and then run theirs. Each has an interrupt table whose handlers count: word `counter(vCPU, vector)`. `hooks` of a vector run before its
/// handler ends the interrupt.
struct FlatGuest {
  /// Where the code is in RAM; the start-up vector of application processors.
  static let code: UInt32 = 0x8000
  static let startPage: UInt8 = 0x08
  /// Words for what routines tell each other, a page apart if wanted.
  static let words: UInt32 = 0x7_0000
  private static let stacks: UInt32 = 0x4_0000
  private static let counters: UInt32 = 0x6_0000
  private static let hookTable: UInt32 = 0x5_0000
  static let apic: UInt32 = 0xFEE0_0000
  static let ioapic: UInt32 = 0xFEC0_0000

  enum APICRegister {
    static let id: UInt32 = 0x20
    static let taskPriority: UInt32 = 0x80
    static let end: UInt32 = 0xB0
    static let logicalDestination: UInt32 = 0xD0
    static let destinationFormat: UInt32 = 0xE0
    static let spurious: UInt32 = 0xF0
    static let commandLow: UInt32 = 0x300
    static let commandHigh: UInt32 = 0x310
    static let lint0: UInt32 = 0x350
    static let lint1: UInt32 = 0x360
  }

  /// How often the handler of `vector` ran on `vcpu`: an address.
  static func counter(_ vcpu: Int, _ vector: Int) -> UInt32 {
    counters + UInt32(vcpu) * 0x1000 + UInt32(vector) * 4
  }

  var a = Assembler(origin: UInt64(FlatGuest.code))
  private var hooks: [(vector: UInt8, label: String)] = []

  /// Hooks: a routine that runs in the handler of a vector before its end; EAX, ECX, EDX and EBX are free, EBP is the vCPU.
  init(
    hooks: [UInt8: (inout FlatGuest) -> Void] = [:], endsInterrupts: Bool = true,
    _ routines: [(inout FlatGuest) -> Void]
  ) {
    // Every processor comes here in real mode.
    a.enterProtectedMode()
    // Which one: its APIC's identification. A stack for each; its lowest word is the number.
    load(from: FlatGuest.apic + APICRegister.id)
    a.emit(0xC1, 0xE8, 24)  // shr eax, 24
    a.emit(0x89, 0xC5)  // mov ebp, eax
    a.emit(0x89, 0xC1)  // mov ecx, eax
    a.emit(0xC1, 0xE1, 12)  // shl ecx, 12
    a.emit(0x81, 0xC1)  // add ecx, stacks
    a.emit32(FlatGuest.stacks)
    a.emit(0x89, 0x01)  // mov [ecx], eax
    a.emit(0x8D, 0xA1)  // lea esp, [ecx + 0x1000]
    a.emit32(0x1000)
    a.loadInterruptTable()
    store(FlatGuest.apic + APICRegister.spurious, 0x1FF)
    a.emit(0xB8)  // mov eax, 1 << 24
    a.emit32(1 << 24)
    a.emit(0x89, 0xE9)  // mov ecx, ebp
    a.emit(0xD3, 0xE0)  // shl eax, cl
    store(to: FlatGuest.apic + APICRegister.logicalDestination)
    a.load(.ax, addressOf: "routines")
    a.emit(0xFF, 0x24, 0xA8)  // jmp [eax + ebp * 4]
    for (index, routine) in routines.enumerated() {
      a.label("routine\(index)")
      routine(&self)
      halt()
    }
    for (vector, body) in hooks.sorted(by: { $0.key < $1.key }) {
      let label = "hook\(vector)"
      a.label(label)
      body(&self)
      a.emit(0xC3)
      self.hooks.append((vector, label))
    }
    interruptHandlers(endsInterrupts: endsInterrupts)
    a.align(16)
    a.label("routines")
    for index in routines.indices { a.emitAddress(of: "routine\(index)", size: 4) }
    a.descriptorTable()
  }

  /// The firmware image: 64 KiB that end at 4 GiB, and below 1 MiB.
  var firmware: [UInt8] {
    let bytes = a.assembled()
    var image = bytes + [UInt8](repeating: 0x90, count: 0x1_0000 - bytes.count)
    // In real mode at F000:FF00: copies all but this to `code`, and goes on there.
    let count = UInt16(bytes.count)
    let start: [UInt8] = [
      0xFA, 0xFC,  // cli; cld
      0xB8, 0x00, 0xF0, 0x8E, 0xD8,  // mov ds, 0xF000
      0xB8, UInt8(FlatGuest.code >> 4 & 0xFF), UInt8(FlatGuest.code >> 12), 0x8E, 0xC0,
      0x31, 0xF6, 0x31, 0xFF,  // xor si, si; xor di, di
      0xB9, UInt8(truncatingIfNeeded: count), UInt8(count >> 8),  // mov cx, count
      0xF3, 0xA4,  // rep movsb
      0xEA, 0, 0, UInt8(FlatGuest.code >> 4 & 0xFF), UInt8(FlatGuest.code >> 12),
    ]
    image.replaceSubrange(0xFF00..<0xFF00 + start.count, with: start)
    image.replaceSubrange(0xFFF0..<0xFFF5, with: [0xEA, 0x00, 0xFF, 0x00, 0xF0])
    return image
  }

  // MARK: - Interrupts

  private mutating func interruptHandlers(endsInterrupts: Bool) {
    var handlers: [UInt8: String] = [:]
    for vector in 0..<256 {
      let label = "vector\(vector)"
      handlers[UInt8(vector)] = label
      a.label(label)
      // Where the processor pushes no error code, the vector stands in for it.
      if [8, 10, 11, 12, 13, 14, 17, 21, 29, 30].contains(vector) {
        a.emit(0x83, 0xC4, 0x04)  // add esp, 4
      }
      a.emit(0x68)  // push vector
      a.emit32(UInt32(vector))
      a.jump("handler")
    }
    a.label("handler")
    a.emit(0x60)  // pusha
    a.emit(0x89, 0xE5, 0x81, 0xE5)  // mov ebp, esp; and ebp, ~0xFFF
    a.emit32(0xFFFF_F000)
    a.emit(0x8B, 0x6D, 0x00)  // mov ebp, [ebp]
    a.emit(0x8B, 0x5C, 0x24, 0x20)  // mov ebx, [esp + 32]: the vector
    a.emit(0x89, 0xE9, 0xC1, 0xE1, 12)  // mov ecx, ebp; shl ecx, 12
    a.emit(0xF0, 0xFF, 0x84, 0x99)  // lock inc dword [ecx + ebx * 4 + counters]
    a.emit32(FlatGuest.counters)
    a.emit(0x53)  // push ebx
    for (vector, label) in hooks {
      a.emit(0x80, 0x3C, 0x24, vector)  // cmp byte [esp], vector
      let next = a.freshLabel()
      a.jump(if: .notEqual, next)
      a.call(label)
      a.label(next)
    }
    a.emit(0x5B)  // pop ebx
    // Exceptions and NMI have no end; a vCPU that has x2APIC mode ends its interrupts by MSR.
    a.emit(0x83, 0xFB, 0x20)  // cmp ebx, 0x20
    a.jump(if: .below, "handled")
    if endsInterrupts {
      a.rdmsr(0x1B)
      a.emit(0xF6, 0xC4, 0x04)  // test ah, 4
      a.jump(if: .equal, "endByMemory")
      a.wrmsr(0x80B, 0)
      a.jump("handled")
      a.label("endByMemory")
      store(FlatGuest.apic + APICRegister.end, 0)
    }
    a.label("handled")
    a.emit(0x61)  // popa
    a.emit(0x83, 0xC4, 0x04)  // add esp, 4
    a.iret()
    a.interruptTable(handlers)
  }

  // MARK: - Pieces of routines

  /// mov dword [address], value
  mutating func store(_ address: UInt32, _ value: UInt32) {
    a.emit(0xC7, 0x05)
    a.emit32(address)
    a.emit32(value)
  }
  /// mov word [address], value
  mutating func store16(_ address: UInt32, _ value: UInt16) {
    a.emit(0x66, 0xC7, 0x05)
    a.emit32(address)
    a.emit16(value)
  }
  /// mov byte [address], value
  mutating func store8(_ address: UInt32, _ value: UInt8) {
    a.emit(0xC6, 0x05)
    a.emit32(address)
    a.emit(value)
  }
  /// mov [address], eax
  mutating func store(to address: UInt32) {
    a.emit(0xA3)
    a.emit32(address)
  }
  /// mov eax, [address]
  mutating func load(from address: UInt32) {
    a.emit(0xA1)
    a.emit32(address)
  }
  /// lock inc dword [address]
  mutating func increment(_ address: UInt32) {
    a.emit(0xF0, 0xFF, 0x05)
    a.emit32(address)
  }

  /// Waits until the word at `address` is `value`. Interrupts come meanwhile if they are allowed.
  mutating func wait(_ address: UInt32, is value: UInt32) {
    let again = a.freshLabel()
    a.label(again)
    a.emit(0xF3, 0x90)  // pause
    a.emit(0x81, 0x3D)  // cmp dword [address], value
    a.emit32(address)
    a.emit32(value)
    a.jump(if: .notEqual, again)
  }

  /// Waits until the word at `address` has come to `value`.
  mutating func wait(_ address: UInt32, isAtLeast value: UInt32) {
    let again = a.freshLabel()
    a.label(again)
    a.emit(0xF3, 0x90)  // pause
    a.emit(0x81, 0x3D)  // cmp dword [address], value
    a.emit32(address)
    a.emit32(value)
    a.jump(if: .below, again)
  }

  /// Waits until the sum of these words is `value`.
  mutating func wait(sumOf addresses: [UInt32], is value: UInt32) {
    let again = a.freshLabel()
    a.label(again)
    a.emit(0xF3, 0x90, 0x31, 0xC0)  // pause; xor eax, eax
    for address in addresses {
      a.emit(0x03, 0x05)  // add eax, [address]
      a.emit32(address)
    }
    a.emit(0x3D)  // cmp eax, value
    a.emit32(value)
    a.jump(if: .notEqual, again)
  }

  mutating func halt() {
    let again = a.freshLabel()
    a.label(again)
    a.hlt()
    a.jump(again)
  }

  /// Runs `body` `count` times; ESI is the number of what is left.
  mutating func times(_ count: UInt32, _ body: (inout FlatGuest) -> Void) {
    a.load(.si, count)
    let again = a.freshLabel()
    a.label(again)
    body(&self)
    a.emit(0x4E)  // dec esi
    a.jump(if: .notEqual, again)
  }

  /// Writes to the interrupt command register: destination first.
  mutating func command(_ low: UInt32, to destination: UInt8 = 0) {
    store(FlatGuest.apic + APICRegister.commandHigh, UInt32(destination) << 24)
    store(FlatGuest.apic + APICRegister.commandLow, low)
  }

  /// Starts all other vCPUs by INIT and start-up, and waits until each has set its word of `started`.
  mutating func startOthers(_ count: Int, started: UInt32) {
    for vcpu in 1..<count {
      command(0x4500, to: UInt8(vcpu))
      command(0x4600 | UInt32(FlatGuest.startPage), to: UInt8(vcpu))
      wait(started + UInt32(vcpu) * 4, is: 1)
    }
  }

  /// A redirection entry of the I/O APIC, when the end of what it has sent before has come: ends are messages, and need their time.
  mutating func redirect(_ pin: UInt32, _ low: UInt32, to destination: UInt8) {
    let again = a.freshLabel()
    a.label(again)
    store(FlatGuest.ioapic, 0x10 + pin * 2)
    load(from: FlatGuest.ioapic + 0x10)
    a.emit(0xF6, 0xC4, 0x40)  // test ah, 0x40: the remote IRR
    a.jump(if: .notEqual, again)
    for (register, value) in [
      (0x11 + pin * 2, UInt32(destination) << 24), (0x10 + pin * 2, low),
    ] {
      store(FlatGuest.ioapic, register)
      store(FlatGuest.ioapic + 0x10, value)
    }
  }

  /// out port, value of 1, 2 or 4 bytes. Uses EAX, EDX.
  mutating func out(_ port: UInt16, _ value: UInt32, width: Int = 1) {
    a.load(.ax, value)
    out(port, width: width)
  }
  /// out port, al, ax or eax. Uses EDX.
  mutating func out(_ port: UInt16, width: Int) {
    a.load(.dx, UInt32(port))
    if width == 2 { a.emit(0x66) }
    a.emit(width == 1 ? 0xEE : 0xEF)
  }
  /// in al, ax or eax, port. Uses EDX.
  mutating func input(_ port: UInt16, width: Int = 1) {
    a.load(.dx, UInt32(port))
    if width == 2 { a.emit(0x66) }
    a.emit(width == 1 ? 0xEC : 0xED)
  }

  /// A write to PCI configuration space, 1, 2 or 4 bytes. Uses EAX, EDX.
  mutating func configure(_ device: UInt32, _ register: UInt32, _ value: UInt32, width: Int) {
    out(0xCF8, 0x8000_0000 | device << 11 | register & ~3, width: 4)
    out(UInt16(0xCFC + (register & 3)), value, width: width)
  }
  /// A read of it, into EAX.
  mutating func configuration(_ device: UInt32, _ register: UInt32, width: Int) {
    out(0xCF8, 0x8000_0000 | device << 11 | register & ~3, width: 4)
    a.emit(0x31, 0xC0)  // xor eax, eax
    input(UInt16(0xCFC + (register & 3)), width: width)
  }

  /// A character for the test.
  mutating func say(_ text: String) {
    for character in text.utf8 { out(0xE9, UInt32(character)) }
  }
}
