import CPU
import Host
import Machine
package import QAPI

// schemas/stats.json

extension MonitorCommands: @MainLoop StatsCommands {
  package func queryStats(_ arguments: StatsFilter) throws(QAPIError) -> [StatsResult] {
    let machine = try context.machine
    guard let wanted = Self.wantedNames(arguments.providers) else { return [] }
    switch arguments.branch {
    case .vm:
      return machine.statistics.map { Self.result($0, path: nil, wanted) }.map { [$0] } ?? []
    case .vcpu(let filter):
      let vcpus = machine.vcpus.filter { filter.vcpus?.contains($0.path) ?? true }
      return vcpus.compactMap { vcpu in
        machine.statistics(of: vcpu.id).map { Self.result($0, path: vcpu.path, wanted) }
      }
    }
  }

  package func queryStatsSchemas(provider: StatsProvider?) throws(QAPIError) -> [StatsSchema] {
    let machine = try context.machine
    var schemas: [StatsSchema] = []
    if let list = machine.statistics {
      schemas.append(StatsSchema(provider: .kvm, target: .vm, stats: list.map(Self.schema)))
    }
    if let first = machine.vcpus.first, let list = machine.statistics(of: first.id) {
      schemas.append(StatsSchema(provider: .kvm, target: .vcpu, stats: list.map(Self.schema)))
    }
    return schemas
  }

  // MARK: -

  /// The names that the request lists, empty for all; nil when no provider is asked for.
  private static func wantedNames(_ requests: [StatsRequest]?) -> Set<String>? {
    guard let requests else { return [] }
    guard let request = requests.first(where: { $0.provider == .kvm }) else { return nil }
    return request.names.map(Set.init) ?? []
  }

  private static func result(
    _ list: [AcceleratorStatistic], path: String?, _ wanted: Set<String>
  ) -> StatsResult {
    let stats = list.filter { wanted.isEmpty || wanted.contains($0.name) }.map { item in
      Stats(name: item.name, value: value(item))
    }
    return StatsResult(provider: .kvm, qomPath: path, stats: stats)
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
