import Host
import Testing

@Suite(.serialized) struct TraceTests {
  @Test func patternsMatchAsAShellsDo() {
    let cases: [(String, String, Bool)] = [
      ("serial_read", "serial_read", true), ("serial_read", "serial_*", true),
      ("serial_read", "*read", true), ("serial_read", "*", true), ("serial_read", "s*l*r*d", true),
      ("serial_read", "serial_rea?", true), ("serial_read", "serial_read?", false),
      ("serial_read", "erial", false), ("serial_read", "", false), ("", "*", true),
      ("serial_read", "*x*", false), ("aaaa", "*a*a*a*a*a", false), ("aXbXc", "a*Xc", true),
    ]
    for (text, pattern, fits) in cases {
      #expect(TracePattern.matches(text, pattern) == fits, "\(text) \(pattern)")
    }
  }

  @Test func namesAreUniqueAndFitIntoTheFlags() {
    let names = TraceEvent.allCases.map(\.name)
    #expect(Set(names).count == names.count)
    #expect(TraceEvent.allCases.allSatisfy { $0.rawValue < 64 })
    #expect(TraceEvent.allCases.allSatisfy { TraceEvent(name: $0.name) == $0 })
  }

  @Test func anEventIsSwitchedForAllOrForOneProcessor() {
    let event = TraceEvent.guestCPUReset
    #expect(!Trace.isOn(event))
    Trace.set(event, true, vcpu: 1)
    #expect(Trace.isOn(event) && Trace.state(of: event, vcpu: 1))
    #expect(!Trace.state(of: event, vcpu: 0))
    Trace.set(event, true)
    #expect(Trace.state(of: event, vcpu: 0))
    Trace.set(event, false)
    #expect(!Trace.isOn(event) && !Trace.state(of: event, vcpu: 1))
    Trace.set(event, true, vcpu: 3)
    Trace.set(event, false, vcpu: 3)
    #expect(!Trace.isOn(event))
  }

  @Test func aFileOfPatternsHasCommentsAndSwitchesOff() {
    let lines = TracePattern.lines(of: "# all\nx_dump_*\n\n  -x_dump_end  \nnope\n")
    #expect(lines.map(\.pattern) == ["x_dump_*", "x_dump_end", "nope"])
    #expect(lines.map(\.enables) == [true, false, true])
    #expect(lines.map { $0.apply() } == [true, true, false])
    #expect(Trace.isOn(.dumpBegin) && !Trace.isOn(.dumpEnd))
    Trace.set(.dumpBegin, false)
  }

  @Test func textIsNotMadeForAnEventThatIsOff() {
    var made = false
    func text() -> String {
      made = true
      return ""
    }
    Trace.write(.jobCompleted, text())
    #expect(!made)
  }
}
