package import Block
package import DeviceModel
package import Host
package import Net
package import Options
package import QAPI
import Security

/// Makes the objects that users ask for. A type of the schema without a class here does not compile.
@MainLoop
package struct ObjectFactory {
  private let memory: MemoryBackend.Defaults
  private let throttleGroups: ThrottleGroups
  private let network: Network

  /// What a machine configuration says about objects; `throttleGroups` are the block graph's.
  package init(
    _ machine: MachineConfiguration, cpus: Int = 1,
    throttleGroups: ThrottleGroups = ThrottleGroups(), network: Network? = nil
  ) {
    self.throttleGroups = throttleGroups
    self.network = network ?? Network()
    memory = MemoryBackend.Defaults(
      merge: machine.mergeMemory, dump: machine.dumpGuestCore, preallocThreads: cpus)
  }

  /// Makes an object that is not complete yet. Throws what the user is to read.
  package func make(
    _ options: ObjectOptions, _ registry: ObjectRegistry
  ) throws(QAPIError) -> any UserObject {
    switch options.branch {
    case .memoryBackendRam(let ram): try MemoryBackend(id: options.id, ram, memory)
    case .memoryBackendFile(let file): try MemoryBackend(id: options.id, file, memory)
    case .memoryBackendMemfd(let memfd): try MemoryBackend(id: options.id, memfd, memory)
    case .iothread(let thread): try IOThreadObject(id: options.id, thread)
    case .filterDump(let dump): try FilterDumpObject(id: options.id, dump, in: network)
    case .rngBuiltin(let rng): try BuiltinRandom(rng)
    case .rngRandom(let rng): try HostRandom(rng)
    case .secret(let secret): try SecretObject(secret)
    case .secretKeyring(let secret): try SecretObject(secret)
    case .throttleGroup(let group):
      try ThrottleGroupObject(id: options.id, group, throttleGroups)
    case .tlsCredsAnon(let tls): try CredentialsObject(tls)
    case .tlsCredsPsk(let tls): try CredentialsObject(tls)
    case .tlsCredsX509(let tls): try CredentialsObject(tls)
    case .authzSimple(let name): NameObject(name)
    case .authzList(let list): ListObject(list)
    case .authzListfile(let file): ListFileObject(file)
    }
  }
}
