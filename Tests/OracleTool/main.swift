import Glibc
import Oracle

// Random instruction sequences on the host CPU, the interpreter and the translator: docs/testing.md.

let usage = """
  cpu-oracle [--cases N] [--seed S] [--from N] [--seconds N] [--failures N] [--kind host,machine]
             [--modes \(SequenceHunt.modeNames.joined(separator: ","))]
             [--all-modes] [--set integer|x87|sse|avx] [--no-minimise] [--verbose]
  cpu-oracle --crafted …            encodings and addresses that no compiler makes
  cpu-oracle --guests N [--rounds N] [--seed S] [--modes …]    whole guests, one for each seed from S on
  cpu-oracle --seed S --case N …    prints one case and what each mode makes of it
  """

func environment(_ name: String) -> String? {
  unsafe getenv(name).map { unsafe String(cString: $0) }
}

func fail(_ text: String) -> Never {
  print(text)
  exit(2)
}

var hunt = SequenceHunt()
if let text = environment("GOLIATH_ORACLE_CASES"), let value = Int(text) { hunt.cases = value }
if let text = environment("GOLIATH_ORACLE_SEED"), let value = UInt64(text) { hunt.seed = value }
if let text = environment("GOLIATH_ORACLE_FAILURES"), let value = Int(text) {
  hunt.failures = value
}
var single: Int?
var guests: Int?
var rounds = 2000
var rest = CommandLine.arguments.dropFirst()
while let option = rest.popFirst() {
  func text() -> String { rest.popFirst() ?? "" }
  func number() -> Int {
    let word = text()
    guard let value = Int(word) else { fail("\(option): not a number: \(word)\n\(usage)") }
    return value
  }
  func list() -> [String] { text().split(separator: ",").map(String.init) }
  switch option {
  case "--cases": hunt.cases = number()
  case "--seed": hunt.seed = UInt64(number())
  case "--from": hunt.first = number()
  case "--seconds": hunt.seconds = number()
  case "--failures": hunt.failures = number()
  case "--kind": hunt.kinds = list()
  case "--modes": hunt.modes = list()
  case "--all-modes": hunt.everyMode = true
  case "--set": hunt.set = OracleSet(rawValue: text())
  case "--no-minimise": hunt.minimises = false
  case "--verbose": hunt.isVerbose = true
  case "--crafted":
    hunt.isCrafted = true
    hunt.cases = SequenceHunt.craftedCount
  case "--guests": guests = number()
  case "--rounds": rounds = number()
  case "--case": single = number()
  default: fail(usage)
  }
}
let failed: Int
if let single {
  failed = hunt.show(single)
} else if let guests {
  failed = hunt.runGuests(guests, rounds: rounds)
} else {
  failed = hunt.run()
}
exit(failed == 0 ? 0 : 1)
