// An object that is described while the program runs: the human monitor's object_add and qom-set.

package import JSON
package import QAPI

/// Reads objects and values outside the command line, with the human monitor's sentences.
package enum ObjectText {
  /// What a text means.
  package enum Meaning {
    case object(ObjectOptions)
    /// It asks which types there are: the lines that say it.
    case listOfTypes([String])
    /// It asks what properties a type has.
    case propertiesOf(String)
  }

  /// Throws QEMU's sentence.
  package static func parse(_ text: String) throws(QAPIError) -> Meaning {
    let origin = OptionOrigin(option: "object_add", argument: text)
    let pairs: [KeyValuePair]
    do throws(OptionError) {
      pairs = try KeyValueText.splitStrict(text, impliedKey: "qom-type", origin: origin)
    } catch {
      throw QAPIError(error.reason)
    }
    let type = pairs.last { $0.key == "qom-type" }?.value
    if let type, OptionText.isHelp(type) { return .listOfTypes(HelpText.objects) }
    if let type, pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      return .propertiesOf(type)
    }
    var value = JSONValue.object(JSONObject())
    for pair in pairs {
      ObjectOption.set(
        pair.value, at: pair.key.split(separator: ".").map(String.init)[...], in: &value)
    }
    do throws(QAPIError) {
      return .object(try ObjectOptions(decoding: value, at: .keyValue))
    } catch {
      throw QAPIError(sentence(error.description))
    }
  }

  /// The value of a property that was written as text, by the property's type. Throws QEMU's sentence.
  package static func value(
    _ text: String, of name: String, type: String
  ) throws(QAPIError) -> JSONValue {
    switch type {
    case "bool":
      guard let flag = OptionText.boolean(text) else { throw .expects(name, "'on' or 'off'") }
      return .bool(flag)
    case "size":
      guard case .value(let size) = OptionText.size(text, defaultUnit: 1) else {
        throw .expects(name, "size")
      }
      return JSONValue(size)
    case let type where type.hasPrefix("uint"):
      guard case .value(let number) = OptionText.number(text) else {
        throw .expects(name, "uint64")
      }
      return JSONValue(number)
    case let type where type.hasPrefix("int"):
      // QEMU says the same of signed numbers.
      guard let number = Int64(text) else { throw .expects(name, "uint64") }
      return .int(number)
    default: return .string(text)
    }
  }

  /// The sentence here for one about decoded text.
  private static func sentence(_ reason: String) -> String {
    let words = reason.split(separator: "'", omittingEmptySubsequences: false)
    guard words.count == 3, words[2].hasSuffix(": integer") || words[2].hasPrefix(" expects uint")
    else { return reason }
    let isSize = ["size", "align", "hugetlbsize"].contains(words[1])
    return "Parameter '\(words[1])' expects \(isSize ? "size" : "integer")"
  }
}
