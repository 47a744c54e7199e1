import CPU
import Host
import Machine
package import QAPI

// schemas/stats.json

extension MonitorCommands: @MainLoop StatsCommands {
  package func queryStats(_ arguments: StatsFilter) throws(QAPIError) -> [StatsResult] {
    let machine = try context.machine
    guard let filter = Self.filter(arguments.providers) else { return [] }
    switch arguments.branch {
    case .vm: return [Self.result(machine.statistics, path: nil, filter)].compactMap { $0 }
    case .vcpu(let which):
      // The last one first, as QEMU lists them.
      return machine.vcpus.reversed().filter { which.vcpus?.contains($0.path) ?? true }
        .compactMap { Self.result(machine.statistics(of: $0.id), path: $0.path, filter) }
    }
  }

  package func queryStatsSchemas(provider: StatsProvider?) throws(QAPIError) -> [StatsSchema] {
    let machine = try context.machine
    var schemas: [StatsSchema] = []
    if let first = machine.vcpus.first, let list = machine.statistics(of: first.id) {
      schemas.append(StatsSchema(provider: .kvm, target: .vcpu, stats: list.map(Self.schema)))
    }
    if let list = machine.statistics {
      schemas.append(StatsSchema(provider: .kvm, target: .vm, stats: list.map(Self.schema)))
    }
    return schemas
  }

  // MARK: -

  /// Tells the names that the request wants; nil when no provider is asked for.
  private static func filter(_ requests: [StatsRequest]?) -> ((String) -> Bool)? {
    guard let requests else { return { _ in true } }
    guard let request = requests.first(where: { $0.provider == .kvm }) else { return nil }
    guard let names = request.names.map(Set.init) else { return { _ in true } }
    return { names.contains($0) }
  }

  /// Nil when nothing is left.
  private static func result(
    _ list: [AcceleratorStatistic]?, path: String?, _ filter: (String) -> Bool
  ) -> StatsResult? {
    let stats = (list ?? []).filter { filter($0.name) }.map {
      Stats(name: $0.name, value: value($0))
    }
    return stats.isEmpty ? nil : StatsResult(provider: .kvm, qomPath: path, stats: stats)
  }

  private static func value(_ item: AcceleratorStatistic) -> StatsValue {
    if item.unit == .boolean { return .boolean(item.values.first != 0) }
    return item.values.count == 1 ? .integer(item.values[0]) : .list(item.values)
  }

  private static func schema(_ item: AcceleratorStatistic) -> StatsSchemaValue {
    let type: StatsType =
      switch item.kind {
      case .cumulative: .cumulative
      case .instant: .instant
      case .peak: .peak
      case .linearHistogram: .linearHistogram
      case .logarithmicHistogram: .log2Histogram
      }
    let unit: StatsUnit? =
      switch item.unit {
      case .none: nil
      case .bytes: .bytes
      case .seconds: .seconds
      case .cycles: .cycles
      case .boolean: .boolean
      }
    return StatsSchemaValue(
      name: item.name, type: type, unit: unit, base: item.exponent == 0 ? nil : item.base,
      exponent: item.exponent,
      bucketSize: item.kind == .linearHistogram ? item.bucketSize : nil)
  }
}
