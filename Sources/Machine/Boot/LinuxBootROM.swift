import Devices

/// An option ROM that loads a Linux kernel from fw_cfg by DMA and starts its real-mode code.
///
/// Firmware finds it as a file in fw_cfg, lists it as a boot entry (BIOS Boot Specification 1.01, 3.1 and appendix A: a PnP expansion
/// header with a bootstrap entry vector) and calls that entry in real mode. The commands it gives are ready-made in the ROM.
struct LinuxBootROM {
  /// The name under which QEMU publishes its ROM for the same purpose; firmware shows and orders boot entries by it.
  static let fileName = "genroms/linuxboot_dma.bin"

  private static let commandsOffset = 0x100
  private static let size = 512

  private let setupAddress: UInt32
  private let stackOffset: UInt32
  private var commands: [UInt8] = []

  /// `stackOffset` is the stack's top in the real-mode code's segment.
  init(setupAddress: UInt32, stackOffset: UInt32) {
    self.setupAddress = setupAddress
    self.stackOffset = stackOffset
  }

  /// Adds a transfer of `count` bytes of an fw_cfg item to `address`.
  mutating func load(_ key: UInt16, _ address: UInt32, _ count: Int) {
    let control =
      UInt32(key) << 16 | FwCfgDMACommand.selectBit | FwCfgDMACommand.readBit
    commands += FwCfgDMACommand(
      control: control, length: UInt32(clamping: count), address: UInt64(address)
    ).encoded()
  }

  /// The 512 bytes of the ROM; all bytes add up to zero.
  func image() -> [UInt8] {
    var rom = [UInt8](repeating: 0, count: LinuxBootROM.size)
    func place(_ offset: Int, _ bytes: [UInt8]) {
      rom.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }
    // Expansion ROM header: signature, length in sectors, initialisation entry (a far return: nothing to initialise).
    place(0x00, [0x55, 0xAA, UInt8(LinuxBootROM.size / 512), 0xCB])
    place(0x1A, [0x20, 0x00])  // offset of the PnP header
    // PnP header: revision 1, two paragraphs, product name at 0xE0, bootstrap entry vector at 0x40.
    var header: [UInt8] = Array("$PnP".utf8) + [0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]
    header += [0xD0, 0x00, 0xE0, 0x00]  // manufacturer, product
    header += [0x00, 0x00, 0x00, 0x44]  // type; read-cacheable, may be shadowed
    header += [0, 0, 0, 0, 0x40, 0x00, 0, 0, 0, 0]  // vectors: bootstrap entry only
    header[9] = 0 &- header.reduce(0, &+)
    place(0x20, header)
    place(0xD0, Array("Goliath".utf8) + [0])
    place(0xE0, Array("Linux loader DMA".utf8) + [0])
    place(0x40, code)
    place(LinuxBootROM.commandsOffset, commands)  // a command of zero ends the list
    rom[LinuxBootROM.size - 1] = 0 &- rom.reduce(0, &+)
    return rom
  }

  /// Copies each command to 0x600, in RAM since the device writes its status there, hands it to the device and waits.
  private var code: [UInt8] {
    let segment = UInt16(truncatingIfNeeded: setupAddress >> 4)
    func word(_ value: UInt16) -> [UInt8] { [UInt8(value & 0xFF), UInt8(value >> 8)] }
    let loop: [UInt8] = [
      0xFA,  // cli
      0xFC,  // cld
      0x31, 0xDB,  // xor bx, bx
      0x8E, 0xC3,  // mov es, bx
      0x0E,  // push cs
      0x1F,  // pop ds
      0xBE, 0x00, 0x01,  // mov si, 0x100
      // next:
      0x66, 0x83, 0x3C, 0x00,  // cmp dword [si], 0
      0x74, 0x2F,  // je start
      0xBF, 0x00, 0x06,  // mov di, 0x600
      0xB9, 0x08, 0x00,  // mov cx, 8
      0xF3, 0xA5,  // rep movsw
      0x66, 0x31, 0xC0,  // xor eax, eax
      0xBA, 0x14, 0x05,  // mov dx, 0x514
      0x66, 0xEF,  // out dx, eax        high half of the address
      0x66, 0xB8, 0x00, 0x00, 0x06, 0x00,  // mov eax, 0x60000   0x600, big-endian
      0xBA, 0x18, 0x05,  // mov dx, 0x518
      0x66, 0xEF,  // out dx, eax        low half: go
      // wait:
      0x26, 0x66, 0xA1, 0x00, 0x06,  // mov eax, es:[0x600]
      0x66, 0xA9, 0xFF, 0xFF, 0xFF, 0xFE,  // test eax, ~error
      0x75, 0xF3,  // jnz wait
      0x66, 0x85, 0xC0,  // test eax, eax
      0x74, 0xCD,  // jz next
      0xCD, 0x18,  // int 0x18           failed: firmware tries the next device
    ]
    // start: segments and stack as the boot protocol wants them ("16-bit": CS is 0x20 above DS = ES = SS).
    var start: [UInt8] = [0xB8] + word(segment)  // mov ax, segment
    start += [0x8E, 0xD8, 0x8E, 0xC0]  // mov ds, ax; mov es, ax
    start += [0x8E, 0xE0, 0x8E, 0xE8]  // mov fs, ax; mov gs, ax
    start += [0x8E, 0xD0]  // mov ss, ax
    start += [0x66, 0xBC] + word(UInt16(truncatingIfNeeded: stackOffset)) + [0, 0]  // mov esp, top
    start += [0xEA, 0x00, 0x00] + word(segment &+ 0x20)  // jmp segment + 0x20 : 0
    return loop + start
  }
}
