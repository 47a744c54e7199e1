import Options
import Testing

/// Splits like a shell does, with single and double quotes.
func words(_ line: String) -> [String] {
  var words: [String] = []
  var current: String?
  var quote: Character?
  for letter in line {
    if let open = quote {
      if letter == open { quote = nil } else { current = (current ?? "") + String(letter) }
    } else if letter == "'" || letter == "\"" {
      quote = letter
      current = current ?? ""
    } else if letter == " " {
      if let word = current { words.append(word) }
      current = nil
    } else {
      current = (current ?? "") + String(letter)
    }
  }
  if let word = current { words.append(word) }
  return words
}

/// The configuration of a command line that must be right.
func configuration(
  _ line: String, catalog: HelpCatalog = HelpCatalog(), programName: String = "goliath",
  sourceLocation: SourceLocation = #_sourceLocation
) throws -> LaunchConfiguration {
  let plan = try CommandLineParser(catalog: catalog).parse(words(line), programName: programName)
  guard case .run(let configuration) = plan.action else {
    Issue.record("not a run: \(plan.action)", sourceLocation: sourceLocation)
    throw OptionError(.failed, nil, "not a run")
  }
  return configuration
}

/// The lines on stderr of a command line that must be wrong; empty when it is right.
func errorLines(_ arguments: [String], catalog: HelpCatalog = HelpCatalog()) -> [String] {
  do throws(OptionError) {
    _ = try CommandLineParser(catalog: catalog).parse(arguments)
    return []
  } catch {
    return error.lines(program: "goliath")
  }
}

func errorLines(_ line: String, catalog: HelpCatalog = HelpCatalog()) -> [String] {
  errorLines(words(line), catalog: catalog)
}
