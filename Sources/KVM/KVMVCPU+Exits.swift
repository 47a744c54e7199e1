import CKVM
import CPU
import Host
import Shm
import Synchronization

extension KVMVCPU {
  /// Serves the exit that KVM_RUN came back with; nil: go on running.
  @inline(__always) func handleExit() -> VMExit? {
    // First, because what the exit asks for may be the task priority itself.
    noteTaskPriority()
    switch file.area.exitReason {
    case KVM_EXIT_IO:
      servePorts(file.area.io)
    case KVM_EXIT_MMIO:
      if let exit = serveMemory(file.area.mmio) { return exit }
    case KVM_EXIT_HLT:
      activity = .halted
      return .halt
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return .interruptWindow
    case KVM_EXIT_INTR:
      break
    default:
      return handleRareExit()
    }
    if file.area.validRegisters != 0 { relaxRegisterSharing() }
    return nil
  }

  /// Tells the local APIC what the guest wrote to CR8.
  @inline(__always) private func noteTaskPriority() {
    let cr8 = UInt8(truncatingIfNeeded: file.area.cr8) & 15
    if cr8 != taskPriorityClass {
      taskPriorityClass = cr8
      host.taskPriority = cr8 << 4
    }
  }

  /// Takes over what the guest wrote to the APIC's task priority register.
  func loadTaskPriority() {
    taskPriorityClass = host.taskPriority >> 4
    file.area.cr8 = UInt64(taskPriorityClass)
  }

  /// IN, OUT and their string forms: `count` accesses of one port.
  @inline(__always) private func servePorts(_ io: goliath_kvm_io) {
    hasPendingCompletion = true
    let width = Int(io.size)
    if io.count > 1, host.takesPortStrings { return servePortString(io, width) }
    if io.is_out != 0 {
      for index in 0..<Int(io.count) {
        host.writePort(io.port, width: width, file.area.loadPortData(io, index))
      }
    } else {
      for index in 0..<Int(io.count) {
        file.area.storePortData(io, index, host.readPort(io.port, width: width))
      }
    }
  }

  /// The elements of a string instruction, as many at a time as the host takes.
  @inline(never) private func servePortString(_ io: goliath_kvm_io, _ width: Int) {
    let count = Int(io.count)
    if io.is_out != 0 {
      var values = (0..<count).map { file.area.loadPortData(io, $0) }
      while !values.isEmpty {
        values.removeFirst(min(host.writePorts(io.port, width: width, values), values.count))
      }
    } else {
      var values: [UInt32] = []
      while values.count < count {
        _ = host.readPorts(io.port, width: width, count: count - values.count, into: &values)
      }
      for (index, value) in values.enumerated() { file.area.storePortData(io, index, value) }
    }
  }

  /// A load or store that no slot answers, or a store to ROM.
  @inline(__always) private func serveMemory(_ mmio: goliath_kvm_mmio) -> VMExit? {
    hasPendingCompletion = true
    let address = GuestAddress(mmio.address)
    let isPowerOfTwo = mmio.length & (mmio.length &- 1) == 0
    if vm.memory.isShared, let served = serveRAM(mmio) {
      switch served {
      case .done: return nil
      case .later: return .interrupted
      case .ended(let exit): return exit
      }
    }
    if isPowerOfTwo {
      if mmio.is_write != 0 {
        let width = Int(mmio.length)
        let mask = width >= 8 ? ~0 : (UInt64(1) << UInt64(width * 8)) &- 1
        host.writeMemory(address, width: width, mmio.data & mask)
      } else {
        file.area.answerMMIO(host.readMemory(address, width: Int(mmio.length)))
      }
    } else {
      serveUneven(mmio)
    }
    // The local APIC's page: its task priority may have changed under our copy.
    if mmio.is_write != 0, mmio.address & ~0xFFF == 0xFEE0_0000 { loadTaskPriority() }
    return nil
  }

  private enum Served {
    case done, later
    case ended(VMExit)
  }

  /// An access to RAM that KVM's instruction emulator could not make because the page is on another node: with the right to it, it is made
  /// here (distributed.md, section 7). Nil: it is a device's.
  @inline(never) private func serveRAM(_ mmio: goliath_kvm_mmio) -> Served? {
    let address = GuestAddress(mmio.address)
    let count = Int(min(mmio.length, 8))
    let isWrite = mmio.is_write != 0
    guard let piece = unsafe vm.memory.translate(address), unsafe !(isWrite && piece.isReadOnly)
    else { return nil }
    _ = vm.mapping?.takeRefusal(of: threadID)
    var value: UInt64 = 0
    for index in 0..<count {
      let at = address + UInt64(index)
      // Byte by byte, for it may cross a page; those that are made already are made again to no harm.
      let outcome = vm.memory.attempt(isWrite ? .write : .read, at, 1) { () -> UInt64 in
        guard let byte = unsafe vm.memory.translate(at) else { return 0 }
        if isWrite {
          unsafe byte.host.storeBytes(
            of: UInt8(truncatingIfNeeded: mmio.data >> UInt64(index * 8)), as: UInt8.self)
          return 0
        }
        return unsafe UInt64(byte.host.load(as: UInt8.self))
      }
      switch outcome {
      case .done(let byte): value |= byte << UInt64(index * 8)
      case .frozen:
        hasUnservedMemory = true
        HostClock.sleep(nanoseconds: 1_000_000)
        return .later
      case .lost:
        // KVM ends the instruction, and perhaps others that it emulates, before it looks: no guest goes on that cannot be told.
        let exit = machineCheck(at: at)
        if case .failure = exit { return .ended(exit) }
        value = UInt64.max
      }
    }
    if !isWrite { file.area.answerMMIO(value) }
    return .done
  }

  /// A part of an access that crosses a page: 3, 5, 6 or 7 bytes.
  private func serveUneven(_ mmio: goliath_kvm_mmio) {
    var done: UInt64 = 0
    var value: UInt64 = 0
    let length = UInt64(min(mmio.length, 8))
    while done < length {
      let left = length - done
      let width: UInt64 = left >= 4 ? 4 : left >= 2 ? 2 : 1
      let mask = (UInt64(1) << (width * 8)) &- 1
      let address = GuestAddress(mmio.address &+ done)
      if mmio.is_write != 0 {
        host.writeMemory(address, width: Int(width), mmio.data >> (done * 8) & mask)
      } else {
        value |= (host.readMemory(address, width: Int(width)) & mask) << (done * 8)
      }
      done += width
    }
    if mmio.is_write == 0 { file.area.answerMMIO(value) }
  }

  @inline(never) private func handleRareExit() -> VMExit? {
    let reason = file.area.exitReason
    switch reason {
    case KVM_EXIT_SET_TPR:
      // An interrupt that was held back may be due.
      return .interrupted
    case KVM_EXIT_X86_RDMSR:
      hasPendingCompletion = true
      let msr = file.area.msr
      let value = host.readMSR(msr.index)
      file.area.answerMSR(value ?? 0, fault: value == nil)
      return nil
    case KVM_EXIT_X86_WRMSR:
      hasPendingCompletion = true
      let msr = file.area.msr
      file.area.answerMSR(msr.data, fault: !writeMSR(msr.index, msr.data))
      return nil
    case KVM_EXIT_SHUTDOWN:
      return .shutdown
    case KVM_EXIT_DEBUG:
      return .debug
    case KVM_EXIT_SYSTEM_EVENT:
      switch Int32(truncatingIfNeeded: file.area.systemEvent) {
      case KVM_SYSTEM_EVENT_SHUTDOWN, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_CRASH:
        return .shutdown
      default:
        return .failure("kvm: system event \(file.area.systemEvent)")
      }
    case KVM_EXIT_INTERNAL_ERROR:
      return handleInternalError()
    case KVM_EXIT_FAIL_ENTRY:
      let code = String(file.area.entryFailure, radix: 16)
      return .failure("kvm: the processor refused the guest's state (hardware reason 0x\(code))")
    case KVM_EXIT_UNKNOWN:
      let code = String(file.area.hardwareExit, radix: 16)
      return .failure("kvm: unknown hardware exit 0x\(code)")
    default:
      return .failure("kvm: exit reason \(reason) is not known")
    }
  }

  /// KVM could not emulate an instruction: the software CPU does it.
  private func handleInternalError() -> VMExit? {
    let suberror = file.area.suberror
    if suberror == UInt32(KVM_INTERNAL_ERROR_EMULATION), let emulate = vm.emulateOne {
      expectRegisterReads()
      if emulate(self, host) { return nil }
    }
    guard suberror == UInt32(KVM_INTERNAL_ERROR_EMULATION) else {
      return .failure("kvm: internal error, suberror \(suberror)")
    }
    let bytes = instructionBytes().map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }
    let place = (try? readState()).map { " at 0x\(String($0.cs.base &+ $0.rip, radix: 16))" } ?? ""
    return .failure(
      "kvm: cannot emulate the instruction\(place): \(bytes.joined(separator: " "))")
  }

  /// The instruction that failed, as far as the kernel told (KVM_CAP_EXIT_ON_EMULATION_FAILURE).
  private func instructionBytes() -> [UInt8] {
    guard file.area.internalData(0) & 1 != 0 else { return [] }
    var bytes: [UInt8] = []
    for word in UInt32(1)...2 {
      let value = file.area.internalData(word)
      for index in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(index * 8))) }
    }
    return Array(bytes.dropFirst().prefix(Int(bytes[0])))
  }

  /// WRMSR of a register that is the machine's, unknown to KVM, or one of the clock. False: #GP.
  private func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool {
    switch index {
    case ModelSpecificRegister.tsc:
      return moveTSC(by: value &- timeStampCounter)
    case ModelSpecificRegister.tscAdjust:
      guard let old = readMSR(index) else { return false }
      return moveTSC(by: value &- old)
    default:
      // Where the host's counter is not stable, KVM moves the offset by itself: a deadline needs the present one.
      if index == ModelSpecificRegister.tscDeadline { learnTSCOffset() }
      guard host.writeMSR(index, value) else { return false }
      if index == ModelSpecificRegister.apicBase {
        // KVM shows its enable bits in CPUID.
        _ = storeMSR(index, value)
      } else if index == 0x808 {
        loadTaskPriority()
      }
      return true
    }
  }

  /// The guest set its time-stamp counter: the difference goes to TSC_ADJUST too (SDM vol. 3B, 18.17.3).
  private func moveTSC(by difference: UInt64) -> Bool {
    let offset = tscOffset.load(ordering: .relaxed) &+ difference
    guard (try? file.setTSCOffset(offset)) != nil else { return false }
    tscOffset.store(offset, ordering: .relaxed)
    if let old = readMSR(ModelSpecificRegister.tscAdjust) {
      _ = storeMSR(ModelSpecificRegister.tscAdjust, old &+ difference)
    }
    return true
  }
}
