import CPU
import Testing

@Suite struct CPUAgreementTests {
  private let topology = CPUTopology(sockets: 1, dies: 1, cores: 2, threads: 1)
  private var here: CPUCapabilities {
    CPUCapabilities(tcgOn: CPUIDTable()).offering(
      FeatureSet(names: "fpu sse sse2 pni ssse3 cx8 avx2 avx xsave"))
  }
  private func offer(without names: String = "", vendor: String = "A", isHardware: Bool = false)
    -> CPUOffer
  {
    CPUOffer(
      isHardware: isHardware, vendor: vendor,
      features: here.features.subtracting(FeatureSet(names: names)))
  }
  private func agree(_ model: String, _ offers: [CPUOffer]) throws -> CPUAgreement {
    try CPUAgreement(CPUModel.parse(model), offers, here, topology: topology)
  }

  @Test func theGuestHasWhatAllHostsHave() throws {
    let agreement = try agree(
      "max", [offer(), offer(without: "ssse3"), offer(without: "avx2 pni")])
    let guest = FeatureSet(table: agreement.table)
    #expect(guest["sse2"] && guest["avx"])
    #expect(!guest["ssse3"] && !guest["avx2"] && !guest["pni"])
    #expect(agreement.missing.map(\.names) == [[], ["ssse3"], ["pni", "avx2"]])
    #expect(
      CPUAgreement.text(agreement.missing)
        == "CPU features differ: node 1 lacks ssse3, node 2 lacks pni avx2")
  }

  @Test func whatTheModelDoesNotAskForMakesNoDifference() throws {
    let agreement = try agree("qemu64,-pni", [offer(), offer(without: "pni avx2")])
    #expect(CPUAgreement.text(agreement.missing) == nil)
    let same = try agree("qemu64,-pni", [offer(), offer()])
    #expect(agreement.table == same.table)
  }

  @Test func whatANodeHasAndNodeZeroLacksIsTold() throws {
    var more = offer()
    more.features["aes"] = true
    let agreement = try agree("max", [offer(), more])
    #expect(!FeatureSet(table: agreement.table)["aes"])
    #expect(CPUAgreement.text(agreement.missing) == "CPU features differ: node 0 lacks aes")
  }

  @Test func enforceRefuses() throws {
    #expect(throws: CPUModelError.self) {
      _ = try agree("max,enforce", [offer(), offer(without: "avx2")])
    }
    let all = try agree("max,enforce", [offer(), offer()])
    #expect(CPUAgreement.text(all.missing) == nil)
  }

  @Test func hardwareOfOneVendorOnly() throws {
    let kvm = CPUCapabilities(kvmSupporting: CPUIDTable(), host: CPUIDTable())
    let offers = [offer(vendor: "GenuineIntel"), offer(vendor: "AuthenticAMD")]
    do throws(CPUModelError) {
      _ = try CPUAgreement(CPUModel.parse("max"), offers, kvm, topology: topology)
      Issue.record("nothing was thrown")
    } catch {
      #expect(
        error.message == "CPU vendor differs: node 0 has GenuineIntel, node 1 has AuthenticAMD")
    }
    _ = try agree("max", offers)
  }

  @Test func countersThatDifferAreRefusedByName() throws {
    func message(_ kilohertz: [UInt64]) -> String? {
      let offers = kilohertz.map { kilohertz in
        var one = offer()
        one.counterKilohertz = kilohertz
        return one
      }
      do throws(CPUModelError) {
        _ = try CPUAgreement(CPUModel.parse("max"), offers, here, topology: topology)
        return nil
      } catch { return error.message }
    }
    #expect(
      message([3_000_000, 2_500_007, 3_000_000])
        == "TSC frequency differs: node 0 has 3000.000 MHz, node 1 has 2500.007 MHz, node 2 has 3000.000 MHz"
    )
    // What two calibrations of one kind of host are apart; counters made by software.
    #expect(message([3_000_000, 3_000_700]) == nil)
    #expect(message([3_000_000, 3_000_800]) != nil)
    #expect(message([0, 2_500_000]) == nil)
    #expect(message([.max, 1, 0]) != nil)
  }
}
