package import DeviceModel
package import Host
import JSON
import Options
package import QAPI
package import Shm

/// `memory-backend-ram`, `-file`, `-memfd`: host memory that a machine can have as its RAM.
@MainLoop
package final class MemoryBackend: UserObject {
  /// What the three kinds do not share.
  package enum Kind: Sendable {
    case ram
    case file(MemoryBackendFileProperties)
    case memfd(MemoryBackendMemfdProperties)
  }

  /// What the machine's `mem-merge` and `dump-guest-core` say.
  package struct Defaults: Sendable {
    package var merge = true
    package var dump = true
    /// As many as the machine has vCPUs.
    package var preallocThreads: UInt32 = 1

    package init(merge: Bool = true, dump: Bool = true, preallocThreads: Int = 1) {
      self.merge = merge
      self.dump = dump
      self.preallocThreads = UInt32(clamping: preallocThreads)
    }
  }

  package let id: String
  package let kind: Kind
  package let size: UInt64
  package private(set) var merge: Bool
  package private(set) var dump: Bool
  package private(set) var prealloc: Bool
  private var preallocThreads: UInt32
  package let share: Bool
  package let reserve: Bool
  package private(set) var policy: HostMemPolicy
  package private(set) var hostNodes: [UInt16]
  private let usesCanonicalName: Bool
  private var discardsData = false
  /// The memory; nil before `complete`.
  package private(set) var block: RAMBlock?
  /// Whether a machine has it.
  package var isMapped = false

  package var typeName: String {
    switch kind {
    case .ram: "memory-backend-ram"
    case .file: "memory-backend-file"
    case .memfd: "memory-backend-memfd"
    }
  }

  /// `memory-backend-ram`. Throws for a value that cannot be.
  package convenience init(
    id: String, _ options: MemoryBackendProperties, _ defaults: Defaults
  ) throws(QAPIError) {
    try self.init(id: id, .ram, options, defaults, share: false)
  }

  /// `memory-backend-file`.
  package convenience init(
    id: String, _ options: MemoryBackendFileProperties, _ defaults: Defaults
  ) throws(QAPIError) {
    let common = MemoryBackendProperties(
      dump: options.dump, hostNodes: options.hostNodes, merge: options.merge,
      policy: options.policy, prealloc: options.prealloc,
      preallocThreads: options.preallocThreads, preallocContext: options.preallocContext,
      share: options.share, reserve: options.reserve, size: options.size,
      xUseCanonicalPathForRamblockId: options.xUseCanonicalPathForRamblockId)
    try self.init(id: id, .file(options), common, defaults, share: false)
    discardsData = options.discardData ?? false
    if options.pmem == true {
      throw QAPIError(
        "Lack of libpmem support while setting the 'pmem=on' of \(typeName)."
          + " We can't ensure data persistence.")
    }
  }

  /// `memory-backend-memfd`.
  package convenience init(
    id: String, _ options: MemoryBackendMemfdProperties, _ defaults: Defaults
  ) throws(QAPIError) {
    let common = MemoryBackendProperties(
      dump: options.dump, hostNodes: options.hostNodes, merge: options.merge,
      policy: options.policy, prealloc: options.prealloc,
      preallocThreads: options.preallocThreads, preallocContext: options.preallocContext,
      share: options.share, reserve: options.reserve, size: options.size,
      xUseCanonicalPathForRamblockId: options.xUseCanonicalPathForRamblockId)
    try self.init(id: id, .memfd(options), common, defaults, share: true)
  }

  private init(
    id: String, _ kind: Kind, _ options: MemoryBackendProperties, _ defaults: Defaults,
    share: Bool
  ) throws(QAPIError) {
    self.id = id
    self.kind = kind
    size = options.size
    merge = options.merge ?? defaults.merge
    dump = options.dump ?? defaults.dump
    prealloc = options.prealloc ?? false
    preallocThreads = options.preallocThreads ?? defaults.preallocThreads
    self.share = options.share ?? share
    reserve = options.reserve ?? true
    policy = options.policy ?? .default
    hostNodes = options.hostNodes ?? []
    usesCanonicalName = options.xUseCanonicalPathForRamblockId ?? false
    let name = typeName
    try MemoryBackend.checkNodes(hostNodes)
    if options.preallocThreads == 0 { throw MemoryBackend.badThreads(name) }
    if let context = options.preallocContext {
      // There is no `thread-context`.
      throw QAPIError(.deviceNotFound, "Device '\(context)' not found")
    }
    if size == 0 { throw QAPIError("property 'size' of \(name) doesn't take value '0'") }
    hostNodes = Array(Set(hostNodes)).sorted()
  }

  private static func checkNodes(_ nodes: [UInt16]) throws(QAPIError) {
    if let bad = nodes.first(where: { $0 >= 128 }) {
      throw QAPIError("Invalid host-nodes value: \(bad)")
    }
  }

  private static func badThreads(_ type: String) -> QAPIError {
    QAPIError("property 'prealloc-threads' of \(type) doesn't take value '0'")
  }

  /// The machine's RAM: the backend that its configuration names, or one of its own, `pc.ram`. Nil for a machine without RAM.
  ///
  /// Throws `MachineError` when it cannot be had.
  static func ofMachine(
    _ configuration: LaunchConfiguration, in objects: ObjectRegistry, shared: RAMBlock? = nil
  ) throws(MachineError) -> RAMBlock? {
    let named = configuration.machine.memoryBackend
    if named == nil, configuration.machine.type == "none" { return nil }
    let id = named ?? "pc.ram"
    if named == nil {
      do throws(QAPIError) {
        let options = MemoryBackendProperties(size: configuration.memory.size)
        let defaults = Defaults(
          merge: configuration.machine.mergeMemory, dump: configuration.machine.dumpGuestCore,
          preallocThreads: configuration.smp.cpus)
        let backend = try MemoryBackend(id: id, options, defaults)
        // Made before, for all nodes of one host.
        backend.block = shared
        try objects.add(backend, id: id)
      } catch {
        throw MachineError(error.description)
      }
    }
    if named != nil, let shared { try objects.find(id, MemoryBackend.self)?.become(shared) }
    guard let backend = objects.find(id, MemoryBackend.self), let block = backend.block else {
      throw MachineError("Memory backend '\(id)' not found")
    }
    if block.isReadOnly {
      throw MachineError("memory backend '\(id)' is read-only, which a machine's RAM cannot be")
    }
    backend.isMapped = true
    return block
  }

  /// Takes the RAM that a machine on several nodes has, with what the options say of it, in place of its own. Throws `MachineError` for contents
  /// that are somewhere else.
  private func become(_ shared: RAMBlock) throws(MachineError) {
    if case .file = kind {
      throw MachineError(
        "memory backend '\(id)' is a file, which the RAM of a machine on several nodes cannot be;"
          + " use memory-backend-ram")
    }
    if !dump { shared.setInCoreDumps(false) }
    do throws(QAPIError) { try place(shared) } catch { throw MachineError(error.description) }
    block = shared
  }

  // MARK: - Allocation

  package func prepare() async throws(QAPIError) {
    guard prealloc else { return }
    let (block, pageSize) = try allocate()
    let threads = Int(preallocThreads)
    do {
      try await HostThread.value(name: "touch/0") {
        try block.populate(threads: threads, pageSize: pageSize)
      }
    } catch {
      throw Self.notTouched(error)
    }
    self.block = block
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    if block != nil { return }
    let (block, pageSize) = try allocate()
    if prealloc {
      do throws(SystemError) {
        try block.populate(threads: Int(preallocThreads), pageSize: pageSize)
      } catch {
        throw Self.notTouched(error)
      }
    }
    self.block = block
  }

  private static func notTouched(_ error: any Error) -> QAPIError {
    let reason = (error as? SystemError)?.reason ?? "\(error)"
    return QAPIError("qemu_prealloc_mem: preallocating memory failed: \(reason)")
  }

  /// The memory with its policy, and the bytes of its pages; nothing has been touched.
  private func allocate() throws(QAPIError) -> (RAMBlock, Int) {
    if prealloc, !reserve {
      throw QAPIError("'prealloc=on' and 'reserve=off' are incompatible")
    }
    var pageSize = 4096
    let block: RAMBlock
    switch kind {
    case .ram: block = try makeBlock(share ? .sharedAnonymous : .anonymous)
    case .file(let options): (block, pageSize) = try makeFileBlock(options)
    case .memfd(let options): (block, pageSize) = try makeMemfdBlock(options)
    }
    if merge { block.setMerging(true) }
    if !dump { block.setInCoreDumps(false) }
    try place(block)
    return (block, pageSize)
  }

  private func makeBlock(
    _ backing: RAMBlock.Backing, alignment: UInt64 = 0
  ) throws(QAPIError) -> RAMBlock {
    do throws(SystemError) {
      return try RAMBlock(
        name: id, size: Int(clamping: size), backing: backing, alignment: alignment,
        reservesSwap: reserve)
    } catch {
      guard case .ram = kind else {
        throw QAPIError("unable to map backing store for guest RAM: \(error.reason)")
      }
      throw QAPIError("cannot set up guest memory '\(id)': \(error.reason)")
    }
  }

  private func makeMemfdBlock(
    _ options: MemoryBackendMemfdProperties
  ) throws(QAPIError) -> (RAMBlock, Int) {
    let wanted = options.hugetlbsize ?? 0
    let isHuge = options.hugetlb == true
    if wanted != 0, wanted & (wanted - 1) != 0 {
      throw QAPIError("property 'hugetlbsize' of \(typeName) is no power of two: \(wanted)")
    }
    let huge = isHuge ? max(wanted, 1) : 0
    let file: Int32
    do throws(SystemError) {
      file = try MemoryFile.anonymous(
        "memory-backend-memfd", size: size, hugePage: huge, isSealed: options.seal ?? true)
    } catch {
      switch error.call {
      case "ftruncate": throw QAPIError("failed to resize memfd to \(size): \(error.reason)")
      case "fcntl": throw QAPIError("failed to add seals 0x7: \(error.reason)")
      default: throw QAPIError("failed to create memfd: \(error.reason)")
      }
    }
    let page = isHuge ? Int(clamping: wanted == 0 ? 2 << 20 : wanted) : 4096
    return (
      try makeBlock(
        .file(file, isShared: share, isReadOnly: false),
        alignment: page > 4096 ? UInt64(page) : 0), page
    )
  }

  private func makeFileBlock(
    _ options: MemoryBackendFileProperties
  ) throws(QAPIError) -> (RAMBlock, Int) {
    let readOnly = options.readonly ?? false
    let file: MemoryFile.Opened
    do throws(SystemError) {
      file = try MemoryFile.open(options.memPath, readOnly: readOnly, name: id)
    } catch {
      throw QAPIError(
        "can't open backing store \(options.memPath) for guest RAM: \(error.reason)")
    }
    func fail(_ text: String) -> QAPIError {
      FileDescriptor(owning: file.descriptor).close()
      if file.isNew { FileDescriptor.remove(options.memPath) }
      return QAPIError(text)
    }
    func hex(_ number: UInt64) -> String { "0x" + String(number, radix: 16) }
    if file.size > 0, size > file.size {
      throw fail(
        "backing store size \(hex(file.size)) does not match 'size' option \(hex(size))")
    }
    let align = options.align ?? 0
    if align % file.pageSize != 0 {
      throw fail(
        "alignment \(hex(align)) must be multiples of page size \(hex(file.pageSize))")
    }
    if align & (align &- 1) != 0 { throw fail("alignment \(hex(align)) must be a power of two") }
    if size < file.pageSize {
      throw fail(
        "memory size \(hex(size)) must be equal to or larger than page size \(hex(file.pageSize))"
      )
    }
    let page = file.pageSize
    let length = size > .max - page ? size : (size + page - 1) / page * page
    if file.size == 0 {
      do throws(SystemError) { try MemoryFile.extend(file.descriptor, to: length) } catch {
        throw fail("unable to map backing store for guest RAM: \(error.reason)")
      }
    }
    do throws(QAPIError) {
      return (
        try makeBlock(
          .file(file.descriptor, isShared: share, isReadOnly: readOnly),
          alignment: max(align, page > 4096 ? page : 0)), Int(clamping: page)
      )
    } catch {
      if file.isNew { FileDescriptor.remove(options.memPath) }
      throw error
    }
  }

  private func place(_ block: RAMBlock) throws(QAPIError) {
    if !hostNodes.isEmpty, policy == .default {
      throw QAPIError(
        "host-nodes must be empty for policy default, or you should explicitly specify a policy"
          + " other than default")
    }
    if hostNodes.isEmpty, policy != .default {
      throw QAPIError("host-nodes must be set for policy \(policy.rawValue)")
    }
    let kernel: RAMBlock.NUMAPolicy =
      switch policy {
      case .default: .standard
      case .preferred: .preferred
      case .bind: .bind
      case .interleave: .interleave
      }
    if kernel == .standard { return }
    do throws(SystemError) { try block.bind(kernel, nodes: hostNodes.map(Int.init)) } catch {
      throw QAPIError("cannot bind memory to host NUMA nodes: \(error.reason)")
    }
  }

  package var canBeDeleted: Bool { !isMapped }

  package func deleted() {
    if discardsData, share { block?.discardContents() }
    block = nil
  }

  /// What `query-memdev` tells.
  package var info: Memdev {
    Memdev(
      id: id, size: size, merge: merge, dump: dump, prealloc: prealloc, share: share,
      reserve: reserve, hostNodes: hostNodes, policy: policy)
  }
}

// MARK: - Properties

extension MemoryBackend {
  package var objectProperties: [ObjectProperty] {
    let type = typeName
    let unchangeable: ObjectProperty.Setter = { _ throws(QAPIError) in
      throw QAPIError("cannot change property value")
    }
    func frozen(_ name: String, _ dot: String = "") -> ObjectProperty.Setter {
      { _ throws(QAPIError) in
        throw QAPIError("cannot change property '\(name)' of \(type)\(dot)")
      }
    }
    var list: [ObjectProperty] = [
      .constant("share", "bool", .bool(share), set: unchangeable),
      .constant("size", "int", size.encoded) { _ throws(QAPIError) in
        throw QAPIError("cannot change property size of \(type) ")
      },
      .value(
        "dump", "bool", get: { [unowned self] in dump },
        set: { [unowned self] in
          dump = $0
          block?.setInCoreDumps($0)
        }),
      .value(
        "prealloc-threads", "int", get: { [unowned self] in preallocThreads },
        set: { [unowned self] (count) throws(QAPIError) in
          if count == 0 { throw MemoryBackend.badThreads(type) }
          preallocThreads = count
        }),
      .constant("x-use-canonical-path-for-ramblock-id", "bool", .bool(usesCanonicalName)) {
        _ throws(QAPIError) in throw QAPIError("cannot change property value")
      },
      .value(
        "policy", "HostMemPolicy", get: { [unowned self] in policy },
        set: { [unowned self] in policy = $0 }),
      .link(
        "prealloc-context", to: "thread-context", { nil },
        set: { (value) throws(QAPIError) in
          let path = try String(decoding: value, at: .member(.json, "prealloc-context"))
          if !path.isEmpty { throw QAPIError(.deviceNotFound, "Device '\(path)' not found") }
        }),
      .value(
        "prealloc", "bool", get: { [unowned self] in prealloc },
        set: { [unowned self] (isOn) throws(QAPIError) in try setPrealloc(isOn) }),
      .constant("reserve", "bool", .bool(reserve), set: unchangeable),
      .value(
        "host-nodes", "int", get: { [unowned self] in hostNodes },
        set: { [unowned self] (nodes) throws(QAPIError) in
          try MemoryBackend.checkNodes(nodes)
          hostNodes = Array(Set(hostNodes + nodes)).sorted()
        }),
      .value(
        "merge", "bool", get: { [unowned self] in merge },
        set: { [unowned self] in
          merge = $0
          block?.setMerging($0)
        }),
    ]
    switch kind {
    case .ram: break
    case .file(let options):
      list += [
        .constant(
          "readonly", "bool", .bool(options.readonly ?? false), set: frozen("readonly", ".")),
        .constant("align", "int", (options.align ?? 0).encoded, set: frozen("align")),
        .constant("pmem", "bool", .bool(false), set: frozen("pmem", ".")),
        .constant("mem-path", "string", .string(options.memPath), set: frozen("mem-path")),
        .value(
          "discard-data", "bool", get: { [unowned self] in discardsData },
          set: { [unowned self] in discardsData = $0 }),
      ]
    case .memfd(let options):
      list += [
        .constant("hugetlb", "bool", .bool(options.hugetlb ?? false), set: unchangeable),
        .constant("seal", "bool", .bool(options.seal ?? true), set: unchangeable),
        .constant(
          "hugetlbsize", "int", (options.hugetlbsize ?? 0).encoded, set: unchangeable),
      ]
    }
    return list
  }

  private func setPrealloc(_ isOn: Bool) throws(QAPIError) {
    if isOn, !reserve { throw QAPIError("'prealloc=on' and 'reserve=off' are incompatible") }
    if isOn, !prealloc, let block {
      do throws(SystemError) { try block.populate(threads: Int(preallocThreads)) } catch {
        throw QAPIError("qemu_prealloc_mem: preallocating memory failed: \(error.reason)")
      }
    }
    // What has been made stays.
    if isOn { prealloc = true }
  }

  package var objectChildren: ObjectNode.Children {
    [("\(id)[0]", .memoryRegion(size: size, address: 0, container: nil))]
  }
}

extension ObjectNode {
  /// A node of type `memory-region`.
  static func memoryRegion(
    size: UInt64, address: UInt64, container: String?, priority: Int = 0
  ) -> ObjectNode {
    ObjectNode(
      "memory-region",
      properties: {
        [
          .link("container", to: "memory-region", { container }),
          .constant("addr", "uint64", address.encoded),
          .constant("size", "uint64", size.encoded),
          .constant("priority", "uint32", priority.encoded),
        ]
      })
  }
}
