import JSON
import QAPI

/// Commands about the machine, which no conversation needs an answer of.
extension RecordingHandlers {
  private static var text: HumanReadableText { HumanReadableText(humanReadableText: "") }

  func queryCurrentMachine() throws(QAPIError) -> CurrentMachineParams {
    CurrentMachineParams(wakeupSuspendSupport: false)
  }
  func queryHotpluggableCpus() throws(QAPIError) -> [HotpluggableCPU] { [] }
  func queryMemorySizeSummary() throws(QAPIError) -> MemoryInfo { MemoryInfo(baseMemory: 0) }
  func xQueryIrq() throws(QAPIError) -> HumanReadableText { Self.text }
  func xQueryNuma() throws(QAPIError) -> HumanReadableText { Self.text }
  func xQueryRamblock() throws(QAPIError) -> HumanReadableText { Self.text }
  func xQueryRoms() throws(QAPIError) -> HumanReadableText { Self.text }
  func xExitPreconfig() throws(QAPIError) {}
  func queryCpuModelExpansion(
    type: CpuModelExpansionType, model: CpuModelInfo
  ) throws(QAPIError) -> CpuModelExpansionInfo { CpuModelExpansionInfo(model: model) }
  func rtcResetReinjection() throws(QAPIError) {}
  func queryAcpiOspmStatus() throws(QAPIError) -> [ACPIOSTInfo] { [] }
  func queryPci() throws(QAPIError) -> [PciInfo] { [] }
  func queryStats(_ arguments: StatsFilter) throws(QAPIError) -> [StatsResult] { [] }
  func queryStatsSchemas(provider: StatsProvider?) throws(QAPIError) -> [StatsSchema] { [] }
  func queryMice() throws(QAPIError) -> [MouseInfo] { [] }
  func sendKey(keys: [KeyValue], holdTime: Int?) throws(QAPIError) {}
  func inputSendEvent(
    device: String?, head: Int?, events: [InputEvent]
  ) throws(QAPIError) {}
  func migrateSetCapabilities(
    capabilities: [MigrationCapabilityStatus]
  ) throws(QAPIError) {}
  func queryMigrateCapabilities() throws(QAPIError) -> [MigrationCapabilityStatus] { [] }
  func queryBlock() throws(QAPIError) -> [BlockInfo] { [] }
  func queryNamedBlockNodes(flat: Bool?) throws(QAPIError) -> [BlockDeviceInfo] { [] }
}
