import CX86
import Host
import Shm
import Synchronization

/// Address translation (Intel SDM vol. 3A, chapter 4) and the software TLB.
extension Core {
  /// A page that an access may use.
  @safe struct Page {
    /// Address of the 4 KiB page.
    var physical: UInt64
    /// Writes are allowed and the dirty bit is set.
    var isWritable: Bool
    var isGlobal: Bool
  }

  /// Bits of the page fault's error code (SDM vol. 3A, 4.7).
  private enum FaultCode {
    static let present: UInt32 = 1
    static let write: UInt32 = 2
    static let user: UInt32 = 4
    static let reserved: UInt32 = 8
    static let fetch: UInt32 = 16
  }

  // MARK: - Data

  /// What lies behind `linear`, which is canonical. Fills the TLB. Raises #PF.
  func resolve(
    _ linear: UInt64, write: Bool, class access: Int
  ) throws(GuestFault) -> Target {
    let tag = linear & ~Core.pageMask
    let e = unsafe tlbEntry(linear, class: access)
    if unsafe (write ? e.pointee.writeTag : e.pointee.readTag) == tag {
      return unsafe Target(
        host: e.pointee.host &+ (linear & Core.pageMask),
        physical: e.pointee.physical & ~Core.pageMask | linear & Core.pageMask, flags: 0,
        isReadOnly: false)
    }
    var found = X86Page()
    if unsafe x86_tlb_fill(s, linear, write ? 1 : 0, Int32(truncatingIfNeeded: access), &found) != 0
    {
      let offset = linear & Core.pageMask
      return Target(
        host: found.host &+ offset, physical: found.physical | offset, flags: found.flags,
        isReadOnly: found.readOnly != 0)
    }
    return try resolveByWalk(linear, write: write, class: access)
  }

  /// `resolve` for all modes, and for what `x86_tlb_fill` leaves alone.
  @inline(never) func resolveByWalk(
    _ linear: UInt64, write: Bool, class access: Int
  ) throws(GuestFault) -> Target {
    let tag = linear & ~Core.pageMask
    let offset = linear & Core.pageMask
    while true {
      let page = try walk(linear, write: write, fetch: false, class: access, update: true)
      let physical = page.physical & a20Mask
      guard let found = unsafe environment.memory.translate(GuestAddress(physical)) else {
        return Target(host: 0, physical: physical | offset, flags: 0, isReadOnly: false)
      }
      let host = unsafe UInt64(UInt(bitPattern: found.host))
      let flags = unsafe UInt64(UInt(bitPattern: found.flags))
      let readOnly = unsafe found.isReadOnly
      let known = PageFlags(rawValue: unsafe x86_flags_load(flags))
      if known.contains(write ? .noWrite : .noRead) {
        // Everything may be different afterwards, the page tables included.
        try environment.acquire(physical, write ? .write : .read)
        continue
      }
      environment.settle()
      if !environment.isWatched(page: tag) {
        let writable =
          page.isWritable && !readOnly && known.isDisjoint(with: [.code, .noWrite])
        unsafe x86_tlb_set(
          s, Int32(truncatingIfNeeded: access), tag, writable ? 1 : 0, host, physical,
          page.isGlobal ? 1 : 0)
      }
      return Target(
        host: host &+ offset, physical: physical | offset, flags: flags, isReadOnly: readOnly)
    }
  }

  private func tlbLog(_ access: Int) -> UnsafeMutablePointer<UInt16> {
    // SAFETY: inside the state's allocation, see CX86.h.
    unsafe UnsafeMutableRawPointer(s).advanced(
      by: Int(X86_TLB_LOG_OFFSET) + access * Int(X86_TLB_ENTRIES) * 2
    ).assumingMemoryBound(to: UInt16.self)
  }
  func tlbLogCount(_ access: Int) -> UInt32 {
    switch access {
    case 0: unsafe s.pointee.tlbLogCount.0
    case 1: unsafe s.pointee.tlbLogCount.1
    default: unsafe s.pointee.tlbLogCount.2
    }
  }
  private func setTLBLogCount(_ access: Int, _ value: UInt32) {
    switch access {
    case 0: unsafe s.pointee.tlbLogCount.0 = value
    case 1: unsafe s.pointee.tlbLogCount.1 = value
    default: unsafe s.pointee.tlbLogCount.2 = value
    }
  }

  // MARK: - Fetch

  /// Where instructions of a page come from.
  @safe struct CodePage {
    /// Host address of the page; 0: device memory.
    var host: UInt64
    var physical: UInt64
    var flags: UInt64
  }

  /// The page from which the instruction at `linear` is fetched. Raises #PF.
  @inline(__always) func resolveFetch(_ linear: UInt64) throws(GuestFault) -> CodePage {
    let tag = linear & ~Core.pageMask
    let e = unsafe s.pointee.itlb + Int(linear &>> 12 & UInt64(X86_ITLB_ENTRIES - 1))
    if unsafe e.pointee.executeTag == tag {
      return unsafe CodePage(
        host: e.pointee.addend, physical: e.pointee.physical & ~Core.pageMask,
        flags: e.pointee.flags)
    }
    return try fillFetch(linear)
  }

  @inline(never) private func fillFetch(_ linear: UInt64) throws(GuestFault) -> CodePage {
    let access = cpl == 3 ? AccessClass.user : AccessClass.supervisor
    while true {
      let page = try walk(linear, write: false, fetch: true, class: access, update: true)
      let physical = page.physical & a20Mask
      var code = CodePage(host: 0, physical: physical, flags: 0)
      if let found = unsafe environment.memory.translate(GuestAddress(physical)) {
        code.host = unsafe UInt64(UInt(bitPattern: found.host))
        code.flags = unsafe UInt64(UInt(bitPattern: found.flags))
        if unsafe x86_flags_load(code.flags) & PageFlags.noRead.rawValue != 0 {
          try environment.acquire(physical, .read)
          continue
        }
        environment.settle()
        let e = unsafe s.pointee.itlb + Int(linear &>> 12 & UInt64(X86_ITLB_ENTRIES - 1))
        unsafe e.pointee.executeTag = linear & ~Core.pageMask
        unsafe e.pointee.addend = code.host
        unsafe e.pointee.physical = physical | (page.isGlobal ? 1 : 0)
        unsafe e.pointee.flags = code.flags
      }
      return code
    }
  }

  // MARK: - Walk

  /// Translates by the page tables, checks the access, and sets accessed and dirty bits when `update`. Raises #PF.
  func walk(
    _ linear: UInt64, write: Bool, fetch: Bool, class access: Int, update: Bool
  ) throws(GuestFault) -> Page {
    while true {
      if let page = try walkOnce(linear, write: write, fetch: fetch, class: access, update: update)
      {
        return page
      }
    }
  }

  /// Nil: another vCPU changed an entry between the look at it and the update.
  private func walkOnce(
    _ linear: UInt64, write: Bool, fetch: Bool, class access: Int, update: Bool
  ) throws(GuestFault) -> Page? {
    let cr0 = self.cr0
    if cr0 & CR0.pg == 0 {
      return Page(physical: linear & 0xFFFF_F000, isWritable: true, isGlobal: false)
    }
    let cr4 = self.cr4
    var code: UInt32 = write ? FaultCode.write : 0
    let user = access == AccessClass.user
    if user { code |= FaultCode.user }
    let pae = cr4 & CR4.pae != 0
    let nxe = pae && efer & EFER.nxe != 0
    if fetch && (nxe || cr4 & CR4.smep != 0) { code |= FaultCode.fetch }

    let addressBits = physicalMask & ~Core.pageMask
    let noExecute: UInt64 = 1 << 63
    // Bits that must be clear in every entry.
    let reserved: UInt64 =
      pae ? (~physicalMask & 0x000F_FFFF_FFFF_F000) | (nxe ? 0 : noExecute) : 0

    var rights: UInt64 = 6  // writable, user: the AND of all levels
    var forbidden: UInt64 = 0  // no-execute: the OR
    var table: UInt64
    var level: Int
    if efer & EFER.lma != 0 {
      table = cr3 & addressBits
      level = 4
    } else if pae {
      let entry = pageDirectoryPointer(Int(linear &>> 30 & 3))
      if entry & 1 == 0 { throw pageFault(linear, code) }
      table = entry & addressBits
      level = 2
    } else {
      table = cr3 & 0xFFFF_F000
      level = 2
    }

    while true {
      let wide = pae
      let shift = UInt64(wide ? 12 &+ 9 &* (level &- 1) : level == 2 ? 22 : 12)
      let index = linear &>> shift & (wide ? 511 : 1023)
      let address = table &+ index &* (wide ? 8 : 4)
      let entry = try readEntry(address, wide: wide)
      if entry & 1 == 0 { throw pageFault(linear, code) }
      if entry & reserved != 0 {
        throw pageFault(linear, code | FaultCode.present | FaultCode.reserved)
      }
      let large = entry & 0x80 != 0 && level > 1 && (wide || cr4 & CR4.pse != 0)
      if wide && large {
        let canBeLarge = level == 2 || (level == 3 && coreFeatures & Feature.pdpe1gb != 0)
        let low: UInt64 = level == 2 ? 0x001F_E000 : 0x3FFF_E000
        if !canBeLarge || entry & low != 0 {
          throw pageFault(linear, code | FaultCode.present | FaultCode.reserved)
        }
      } else if large && entry & (1 << 21) != 0 {
        throw pageFault(linear, code | FaultCode.present | FaultCode.reserved)
      }
      rights &= entry
      forbidden |= entry & noExecute
      let isLeaf = level == 1 || large
      if !isLeaf {
        if update, entry & 0x20 == 0, try !orEntry(address, wide: wide, entry, 0x20) { return nil }
        table = entry & (wide ? addressBits : 0xFFFF_F000)
        level &-= 1
        continue
      }

      let isUserPage = rights & 4 != 0
      let isWritablePage = rights & 2 != 0
      var allowed: Bool
      if user {
        allowed = isUserPage && (!write || isWritablePage)
      } else {
        allowed = !write || isWritablePage || cr0 & CR0.wp == 0
        if isUserPage {
          if fetch {
            if cr4 & CR4.smep != 0 { allowed = false }
          } else if cr4 & CR4.smap != 0 && access != AccessClass.supervisorWithAC {
            allowed = false
          }
        }
      }
      if fetch && nxe && forbidden != 0 { allowed = false }
      if !allowed { throw pageFault(linear, code | FaultCode.present) }

      let wanted: UInt64 = write ? 0x60 : 0x20
      if update, entry & wanted != wanted, try !orEntry(address, wide: wide, entry, wanted) {
        return nil
      }
      let dirty = write || entry & 0x40 != 0
      let mayWrite = isWritablePage || (!user && cr0 & CR0.wp == 0)
      var physical: UInt64
      if !large {
        physical = entry & (wide ? addressBits : 0xFFFF_F000)
      } else if wide {
        let size: UInt64 = 1 &<< shift
        physical = (entry & addressBits & ~(size &- 1)) | (linear & (size &- 1) & ~Core.pageMask)
      } else {
        physical = (entry & 0xFFC0_0000) | ((entry &>> 13 & 0xFF) &<< 32)
        physical = (physical & physicalMask) | (linear & 0x003F_F000)
      }
      return Page(
        physical: physical, isWritable: dirty && mayWrite,
        isGlobal: entry & 0x100 != 0 && cr4 & CR4.pge != 0)
    }
  }

  private func pageFault(_ linear: UInt64, _ code: UInt32) -> GuestFault {
    environment.faultAddress = linear
    if Log.isEnabled(.mmu) { logPageFault(linear, code) }
    return fault(ExceptionVector.pageFault, code)
  }

  /// A paging-structure entry. What is not RAM reads as not present.
  private func readEntry(_ address: UInt64, wide: Bool) throws(GuestFault) -> UInt64 {
    let masked = GuestAddress(address & a20Mask)
    guard let t = unsafe environment.memory.translate(masked) else { return 0 }
    while unsafe t.flags.pointee.load(ordering: .sequentiallyConsistent) & PageFlags.noRead.rawValue
      != 0
    {
      try environment.acquire(masked.rawValue, .read)
    }
    environment.settle()
    return unsafe wide ? x86_load64(t.host) : UInt64(x86_load32(t.host))
  }

  /// Sets accessed and dirty bits of an entry that was read as `old`, locked as hardware does. False: it is no longer that. ROM keeps
  /// what it has.
  private func orEntry(
    _ address: UInt64, wide: Bool, _ old: UInt64, _ bits: UInt64
  ) throws(GuestFault) -> Bool {
    let masked = GuestAddress(address & a20Mask)
    guard let t = unsafe environment.memory.translate(masked), unsafe !t.isReadOnly else {
      return true
    }
    if unsafe t.flags.pointee.load(ordering: .sequentiallyConsistent) & PageFlags.noWrite.rawValue
      != 0
    {
      try environment.acquire(masked.rawValue, .write)
      return false
    }
    environment.settle()
    if wide {
      if unsafe x86_lock_cmpxchg64(t.host, old, old | bits) != old { return false }
    } else {
      let low = UInt32(truncatingIfNeeded: old)
      let new = UInt32(truncatingIfNeeded: old | bits)
      if unsafe x86_lock_cmpxchg32(t.host, low, new) != low { return false }
    }
    let page = unsafe UInt64(UInt(bitPattern: t.flags))
    if unsafe x86_flags_load(page) & 1 != 0 {
      environment.codeWasWritten(address & a20Mask, flags: page)
    }
    return true
  }

  // MARK: - Flushing

  /// Empties the TLBs; global pages stay unless `includingGlobal`.
  func flushTLB(includingGlobal: Bool) {
    // SAFETY: all pointers stay inside the state's allocation.
    unsafe s.pointee.tlbFlushes &+= 1
    unsafe x86_sites_drop(s)
    for access in 0..<Int(X86_TLB_CLASSES) {
      let log = unsafe tlbLog(access)
      let entries = unsafe tlbEntry(0, class: access)
      let count = Int(tlbLogCount(access))
      var kept = 0
      for k in 0..<count {
        let index = unsafe log[k]
        let e = unsafe entries + Int(index & UInt16(X86_TLB_ENTRIES - 1))
        if !includingGlobal, unsafe e.pointee.physical & 1 != 0 {
          unsafe log[kept] = index
          kept &+= 1
          continue
        }
        let none = x86_no_tag(UInt64(index))
        unsafe e.pointee.readTag = none
        unsafe e.pointee.writeTag = none
        unsafe e.pointee.physical = 0
      }
      setTLBLogCount(access, UInt32(truncatingIfNeeded: kept))
    }
    let itlb = unsafe UnsafeMutableRawPointer(s).advanced(by: Int(X86_ITLB_OFFSET))
      .assumingMemoryBound(to: X86ITLBEntry.self)
    for k in 0..<Int(X86_ITLB_ENTRIES * X86_TLB_CLASSES) {
      if includingGlobal || (unsafe itlb[k].physical & 1 == 0) {
        unsafe itlb[k].executeTag = Core.noTag
      }
    }
    dropTokens(includingGlobal: includingGlobal)
    jumpGeneration &+= 1
  }

  /// Forgets one page, global or not.
  func flushPage(_ linear: UInt64) {
    for access in 0..<Int(X86_TLB_CLASSES) {
      let e = unsafe tlbEntry(linear, class: access)
      let tag = linear & ~Core.pageMask
      if unsafe e.pointee.readTag == tag || e.pointee.writeTag == tag {
        let none = x86_no_tag(linear &>> 12)
        unsafe e.pointee.readTag = none
        unsafe e.pointee.writeTag = none
      }
      let itlb = unsafe UnsafeMutableRawPointer(s).advanced(by: Int(X86_ITLB_OFFSET))
        .assumingMemoryBound(to: X86ITLBEntry.self)
      let slot = access * Int(X86_ITLB_ENTRIES) + Int(linear &>> 12 & UInt64(X86_ITLB_ENTRIES - 1))
      if unsafe itlb[slot].executeTag == tag { unsafe itlb[slot].executeTag = Core.noTag }
    }
    dropToken(linear)
    unsafe x86_sites_drop(s)
    jumpGeneration &+= 1
  }

  /// Takes write permission from all entries for a physical page that now holds decoded code; nil: for all pages.
  func dropWriteTags(physical: UInt64?) {
    unsafe x86_sites_drop(s)
    for access in 0..<Int(X86_TLB_CLASSES) {
      let log = unsafe tlbLog(access)
      let entries = unsafe tlbEntry(0, class: access)
      for k in 0..<Int(tlbLogCount(access)) {
        let e = unsafe entries + Int(log[k] & UInt16(X86_TLB_ENTRIES - 1))
        if unsafe physical == nil || e.pointee.physical & ~Core.pageMask == physical {
          unsafe e.pointee.writeTag = x86_no_tag(UInt64(log[k]))
        }
      }
    }
  }

  /// Forgets all translations to a physical page.
  func dropTags(physical: UInt64) {
    unsafe x86_sites_drop(s)
    for access in 0..<Int(X86_TLB_CLASSES) {
      let log = unsafe tlbLog(access)
      let entries = unsafe tlbEntry(0, class: access)
      for k in 0..<Int(tlbLogCount(access)) {
        let e = unsafe entries + Int(log[k] & UInt16(X86_TLB_ENTRIES - 1))
        if unsafe e.pointee.physical & ~Core.pageMask == physical {
          let none = unsafe x86_no_tag(UInt64(log[k]))
          unsafe e.pointee.readTag = none
          unsafe e.pointee.writeTag = none
        }
      }
    }
    let itlb = unsafe UnsafeMutableRawPointer(s).advanced(by: Int(X86_ITLB_OFFSET))
      .assumingMemoryBound(to: X86ITLBEntry.self)
    for k in 0..<Int(X86_ITLB_ENTRIES * X86_TLB_CLASSES)
    where unsafe itlb[k].physical & ~Core.pageMask == physical {
      unsafe itlb[k].executeTag = Core.noTag
    }
    jumpGeneration &+= 1
  }

  /// Makes the TLB empty for the first time (all tags invalid).
  func resetTLB() {
    for access in 0..<Int(X86_TLB_CLASSES) {
      let entries = unsafe tlbEntry(0, class: access)
      for k in 0..<Int(X86_TLB_ENTRIES) {
        let none = x86_no_tag(UInt64(k))
        unsafe entries[k] = X86TLBEntry(
          readTag: none, writeTag: none, host: 0, physical: 0)
      }
      setTLBLogCount(access, 0)
    }
    flushTLB(includingGlobal: true)
  }

  /// Loads the four PDPTEs of PAE paging (SDM vol. 3A, 4.4.1). Raises #GP for reserved bits.
  func loadPageDirectoryPointers(_ cr3: UInt64) throws(GuestFault) {
    var entries: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    let base = cr3 & 0xFFFF_FFE0
    let reserved: UInt64 = (~physicalMask & ~Core.pageMask) | 0x1E6
    for k in 0..<4 {
      let entry = try readEntry(base &+ UInt64(k) &* 8, wide: true)
      if entry & 1 != 0 && entry & reserved != 0 {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      switch k {
      case 0: entries.0 = entry
      case 1: entries.1 = entry
      case 2: entries.2 = entry
      default: entries.3 = entry
      }
    }
    setPageDirectoryPointer(0, entries.0)
    setPageDirectoryPointer(1, entries.1)
    setPageDirectoryPointer(2, entries.2)
    setPageDirectoryPointer(3, entries.3)
  }
}
