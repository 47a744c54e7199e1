import CPU
import Host
import JSON
package import QAPI

// schemas/machine-target.json

extension MonitorCommands: @MainLoop MachineTargetCommands {
  package func queryCpuModelExpansion(
    type: CpuModelExpansionType, model: CpuModelInfo
  ) throws(QAPIError) -> CpuModelExpansionInfo {
    // As in QEMU, properties that are no object change nothing.
    var changes: [(name: String, value: CPUModel.Property)] = []
    for (name, value) in model.props?.objectValue ?? [:] {
      changes.append((name, Self.property(value)))
    }
    let capabilities = try context.cpuCapabilities
    let list: [(name: String, value: CPUModel.Property)]
    do throws(CPUModelError) {
      list = try CPUModel.properties(
        ofModel: model.name, changes: changes, isFull: type == .full, capabilities)
    } catch {
      throw QAPIError(error.message)
    }
    var props = JSONObject()
    for (name, value) in list { props[name] = Self.json(value) }
    let name = type == .full ? model.name : "base"
    return CpuModelExpansionInfo(model: CpuModelInfo(name: name, props: .object(props)))
  }

  private static func property(_ value: JSONValue) -> CPUModel.Property {
    switch value {
    case .bool(let isOn): .bool(isOn)
    case .int(let number): number < 0 ? .signed(Int64(number)) : .unsigned(UInt64(number))
    case .uint(let number): .unsigned(number)
    case .string(let text): .text(text)
    default: .other
    }
  }

  private static func json(_ value: CPUModel.Property) -> JSONValue {
    switch value {
    case .bool(let isOn): .bool(isOn)
    case .unsigned(let number): Int64(exactly: number).map { .int($0) } ?? .uint(number)
    case .signed(let number): .int(number)
    case .text(let text): .string(text)
    case .other: .null
    }
  }
}
