import CPU
import CX86
import Glibc

/// String instructions and port input and output (Intel SDM vol. 1, 7.3.9; vol. 2, REP).
///
/// Every iteration commits its registers, so a fault or an interrupt in the middle leaves a state from which the instruction goes on.
extension Core {
  /// MOVS CMPS STOS LODS SCAS.
  func executeString(_ i: Insn) throws(GuestFault) -> Flow {
    let size = i.size
    let mask = i.addressMask
    let step = eflags & EFLAGS.df != 0 ? 0 &- UInt64(size) : UInt64(size)
    let repeats = i.isREP || i.isREPNE
    if !repeats {
      try stringStep(i, size: size, mask: mask, step: step)
      return .next
    }
    var budget = 1 << 12
    while true {
      if mask == UInt64.max, i.opcode & 0xFE == 0xA4 || i.opcode & 0xFE == 0xAA {
        // SAFETY: the own state; `size` is 1, 2, 4 or 8, the segment one of six.
        let result =
          unsafe i.opcode < 0xA8
          ? x86_fast_rep_movs(s, UInt32(size), UInt32(i.segment))
          : x86_fast_rep_stos(s, UInt32(size))
        if result == X86_FAST_DONE { return .next }
        if result == X86_FAST_AGAIN {
          rip = rip &- UInt64(i.length)
          environment.isInsideREP = true
          return .reconsider
        }
      }
      let count = r64(1) & mask
      if count == 0 { return .next }
      var done: UInt64 = 0
      if eflags & (EFLAGS.df | EFLAGS.tf) == 0, i.opcode == 0xA4 || i.opcode == 0xA5 {
        done = moveChunk(i, count: count, size: UInt64(size), mask: mask)
      } else if eflags & (EFLAGS.df | EFLAGS.tf) == 0, i.opcode == 0xAA || i.opcode == 0xAB {
        done = storeChunk(i, count: count, size: UInt64(size), mask: mask)
      }
      if done == 0 {
        try stringStep(i, size: size, mask: mask, step: step)
        done = 1
        budget &-= 1
      } else {
        budget &-= 64
      }
      setCounter(count &- done, mask: mask)
      let compares = i.opcode == 0xA6 || i.opcode == 0xA7 || i.opcode == 0xAE || i.opcode == 0xAF
      if compares && isZero == i.isREPNE { return .next }
      if count == done { return .next }
      if eflags & EFLAGS.tf != 0 || (unsafe x86_request(s) != 0) || slowMode != 0 {
        rip = rip &- UInt64(i.length)
        environment.isInsideREP = true
        return .reconsider
      }
      if budget <= 0 { budget = 1 << 12 }
    }
  }

  @inline(__always) private func setCounter(_ value: UInt64, mask: UInt64) {
    setIndex(1, value, mask: mask)
  }

  /// Writes a count or index register by the address size.
  @inline(__always) private func setIndex(_ n: UInt8, _ value: UInt64, mask: UInt64) {
    if mask == 0xFFFF {
      set16(n, UInt16(truncatingIfNeeded: value))
    } else {
      set64(n, value & mask)
    }
  }

  private func stringStep(
    _ i: Insn, size: UInt8, mask: UInt64, step: UInt64
  ) throws(GuestFault) {
    let source = r64(6) & mask
    let target = r64(7) & mask
    switch i.opcode {
    case 0xA4, 0xA5:
      let value = try load(i.segment, source, size: size)
      try store(Core.es, target, size: size, value)
      setIndex(6, source &+ step, mask: mask)
      setIndex(7, target &+ step, mask: mask)
    case 0xA6, 0xA7:
      let a = try load(i.segment, source, size: size)
      let b = try load(Core.es, target, size: size)
      _ = arithmetic(7, size: size, a, b)
      setIndex(6, source &+ step, mask: mask)
      setIndex(7, target &+ step, mask: mask)
    case 0xAA, 0xAB:
      try store(Core.es, target, size: size, register(0, size: size, rex: true))
      setIndex(7, target &+ step, mask: mask)
    case 0xAC, 0xAD:
      let value = try load(i.segment, source, size: size)
      setRegister(0, size: size, rex: true, value)
      setIndex(6, source &+ step, mask: mask)
    default:
      let b = try load(Core.es, target, size: size)
      _ = arithmetic(7, size: size, register(0, size: size, rex: true), b)
      setIndex(7, target &+ step, mask: mask)
    }
  }

  /// How many bytes from an offset stay in its page and below the wrap of the address size.
  private func room(_ segment: UInt8, _ offset: UInt64, mask: UInt64) -> UInt64 {
    let linear = unsafe offset &+ window(segment).pointee.base
    return min(
      4096 &- (linear & Core.pageMask), (mask &- offset) == UInt64.max ? 4096 : mask &- offset &+ 1)
  }

  /// REP MOVS on host memory; 0 when only the slow way is possible.
  private func moveChunk(_ i: Insn, count: UInt64, size: UInt64, mask: UInt64) -> UInt64 {
    let source = r64(6) & mask
    let target = r64(7) & mask
    let limit = min(room(i.segment, source, mask: mask), room(Core.es, target, mask: mask))
    let elements = min(limit / size, count)
    let bytes = elements &* size
    if elements == 0 { return 0 }
    guard let from = unsafe readPointer(i.segment, source, bytes),
      let to = unsafe writePointer(Core.es, target, bytes)
    else { return 0 }
    let distance = unsafe UInt(bitPattern: to) &- UInt(bitPattern: from)
    if distance > 0 && distance < UInt(bytes) {
      // The copy feeds on itself: element by element.
      if distance < UInt(size) { return 0 }
      var k: UInt64 = 0
      while k < bytes {
        let at = Int(k)
        switch size {
        case 1:
          unsafe to.storeBytes(
            of: from.loadUnaligned(fromByteOffset: at, as: UInt8.self), toByteOffset: at,
            as: UInt8.self)
        case 2:
          unsafe to.storeBytes(
            of: from.loadUnaligned(fromByteOffset: at, as: UInt16.self), toByteOffset: at,
            as: UInt16.self)
        case 4:
          unsafe to.storeBytes(
            of: from.loadUnaligned(fromByteOffset: at, as: UInt32.self), toByteOffset: at,
            as: UInt32.self)
        default:
          unsafe to.storeBytes(
            of: from.loadUnaligned(fromByteOffset: at, as: UInt64.self), toByteOffset: at,
            as: UInt64.self)
        }
        k &+= size
      }
    } else {
      unsafe memmove(to, from, Int(bytes))
    }
    setIndex(6, source &+ bytes, mask: mask)
    setIndex(7, target &+ bytes, mask: mask)
    return elements
  }

  /// REP STOS on host memory; 0 when only the slow way is possible.
  private func storeChunk(_ i: Insn, count: UInt64, size: UInt64, mask: UInt64) -> UInt64 {
    let target = r64(7) & mask
    let elements = min(room(Core.es, target, mask: mask) / size, count)
    let bytes = elements &* size
    if elements == 0 { return 0 }
    guard let to = unsafe writePointer(Core.es, target, bytes) else { return 0 }
    let value = register(0, size: UInt8(truncatingIfNeeded: size), rex: true)
    let byte = value & 0xFF
    let pattern = byte &* 0x0101_0101_0101_0101
    let full: UInt64 = size == 8 ? UInt64.max : (1 &<< (size &* 8)) &- 1
    if value == pattern & full {
      unsafe memset(to, Int32(truncatingIfNeeded: byte), Int(bytes))
    } else {
      var k: UInt64 = 0
      while k < bytes {
        let at = Int(k)
        switch size {
        case 2:
          unsafe to.storeBytes(
            of: UInt16(truncatingIfNeeded: value), toByteOffset: at, as: UInt16.self)
        case 4:
          unsafe to.storeBytes(
            of: UInt32(truncatingIfNeeded: value), toByteOffset: at, as: UInt32.self)
        default: unsafe to.storeBytes(of: value, toByteOffset: at, as: UInt64.self)
        }
        k &+= size
      }
    }
    setIndex(7, target &+ bytes, mask: mask)
    return elements
  }

  // MARK: - Ports

  /// Raises #GP unless the ports may be used (SDM vol. 1, 19.5).
  private func checkPort(_ port: UInt16, width: UInt16) throws(GuestFault) {
    if cr0 & CR0.pe == 0 || (!isVirtual8086 && cpl <= iopl) { return }
    let tss = segment(Core.tr)
    if tss.attributes & 0x80 == 0 || tss.attributes & 8 == 0 || tss.limit < 0x67 {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    let map = try readSystem(tss.base &+ 0x66, 2)
    let offset = map &+ UInt64(port &>> 3)
    if offset &+ 1 > UInt64(tss.limit) { throw fault(ExceptionVector.generalProtection, 0) }
    let bits = try readSystem(tss.base &+ offset, 2) &>> UInt64(port & 7)
    if bits & ((1 &<< UInt64(width)) &- 1) != 0 {
      throw fault(ExceptionVector.generalProtection, 0)
    }
  }

  private func readPort(_ port: UInt16, _ size: UInt8) -> UInt64 {
    notePortBreakpoint(port, UInt64(size))
    let host = environment.host
    environment.deviceInstruction = rip
    return UInt64(environment.outside { host.readPort(port, width: Int(size)) })
  }

  private func writePort(_ port: UInt16, _ size: UInt8, _ value: UInt64) {
    notePortBreakpoint(port, UInt64(size))
    let mask: UInt64 = size == 4 ? 0xFFFF_FFFF : size == 2 ? 0xFFFF : 0xFF
    let host = environment.host
    environment.deviceInstruction = rip
    environment.outside {
      host.writePort(port, width: Int(size), UInt32(truncatingIfNeeded: value & mask))
    }
    updateA20()
  }

  /// The A20 gate may have been switched by a port.
  func updateA20() {
    let mask: UInt64 = environment.host.isA20Enabled ? UInt64.max : ~(1 << 20)
    if mask != a20Mask {
      a20Mask = mask
      flushTLB(includingGlobal: true)
    }
  }

  func executePort(_ i: Insn) throws(GuestFault) -> Flow {
    let size: UInt8 = i.size == 8 ? 4 : i.size
    let port =
      i.opcode >= 0xEC ? r16(2) : UInt16(truncatingIfNeeded: i.immediate & 0xFF)
    try checkPort(port, width: UInt16(size))
    if i.opcode & 2 == 0 {
      setRegister(0, size: size, rex: true, readPort(port, size))
    } else {
      writePort(port, size, register(0, size: size, rex: true))
    }
    return .reconsider
  }

  /// Several elements of INS or OUTS at once, within one page, for ports that are far away; false when only one at a time is possible.
  private func portChunk(
    _ i: Insn, _ port: UInt16, _ size: UInt8, _ mask: UInt64
  ) throws(GuestFault) -> Bool {
    let isInput = i.opcode < 0x6E
    if eflags & (EFLAGS.df | EFLAGS.tf) != 0 || slowMode != 0 || environment.watchesData {
      return false
    }
    let offset = r64(isInput ? 7 : 6) & mask
    let segment = isInput ? Core.es : i.segment
    let elements = min(room(segment, offset, mask: mask) / UInt64(size), r64(1) & mask)
    let bytes = elements &* UInt64(size)
    if elements < 2 { return false }
    let host = environment.host
    var values: [UInt32] = []
    var done: UInt64
    if isInput {
      try checkWrite(segment, offset, size: size)
      // What has been read from the port must have a place: the page may go meanwhile, but comes again.
      guard unsafe writePointer(segment, offset, bytes) != nil else { return false }
      environment.deviceInstruction = rip
      done = environment.outside {
        UInt64(host.readPorts(port, width: Int(size), count: Int(elements), into: &values))
      }
      done = min(done, elements, UInt64(values.count))
      for index in 0..<done {
        try store(segment, offset &+ index &* UInt64(size), size: size, UInt64(values[Int(index)]))
      }
    } else {
      values.reserveCapacity(Int(elements))
      for index in 0..<elements {
        values.append(
          UInt32(
            truncatingIfNeeded: try load(
              segment, offset &+ index &* UInt64(size), size: size)))
      }
      environment.deviceInstruction = rip
      done = environment.outside { UInt64(host.writePorts(port, width: Int(size), values)) }
      done = min(done, elements)
      updateA20()
    }
    setIndex(isInput ? 7 : 6, offset &+ done &* UInt64(size), mask: mask)
    setCounter((r64(1) & mask) &- done, mask: mask)
    return true
  }

  /// INS and OUTS.
  func executePortString(_ i: Insn) throws(GuestFault) -> Flow {
    let size: UInt8 = i.size == 8 ? 4 : i.size
    let mask = i.addressMask
    let step = eflags & EFLAGS.df != 0 ? 0 &- UInt64(size) : UInt64(size)
    let repeats = i.isREP || i.isREPNE
    let port = r16(2)
    if repeats && r64(1) & mask == 0 { return .next }
    try checkPort(port, width: UInt16(size))
    while true {
      if repeats, environment.host.takesPortStrings, try portChunk(i, port, size, mask) {
        if r64(1) & mask == 0 { return .reconsider }
        rip = rip &- UInt64(i.length)
        environment.isInsideREP = true
        return .reconsider
      }
      if i.opcode < 0x6E {
        let target = r64(7) & mask
        try checkWrite(Core.es, target, size: size)
        try store(Core.es, target, size: size, readPort(port, size))
        setIndex(7, target &+ step, mask: mask)
      } else {
        let source = r64(6) & mask
        let value = try load(i.segment, source, size: size)
        writePort(port, size, value)
        setIndex(6, source &+ step, mask: mask)
      }
      if !repeats { return .reconsider }
      let count = (r64(1) & mask) &- 1
      setCounter(count, mask: mask)
      if count == 0 { return .reconsider }
      if eflags & EFLAGS.tf != 0 || (unsafe x86_request(s) != 0) || slowMode != 0 {
        rip = rip &- UInt64(i.length)
        environment.isInsideREP = true
        return .reconsider
      }
    }
  }
}
