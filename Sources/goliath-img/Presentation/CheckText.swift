package import JSON

/// What a check found (`check`).
package struct CheckResult: Sendable, Equatable {
  package var filename = ""
  package var format = ""
  package var checkErrors: UInt64 = 0
  package var corruptions: UInt64 = 0
  package var leaks: UInt64 = 0
  package var corruptionsFixed: UInt64 = 0
  package var leaksFixed: UInt64 = 0
  package var imageEndOffset: UInt64 = 0
  package var totalClusters: UInt64 = 0
  package var allocatedClusters: UInt64 = 0
  package var fragmentedClusters: UInt64 = 0
  package var compressedClusters: UInt64 = 0

  package init() {}

  /// The members of QAPI's `ImageCheck`; what is 0 is left out.
  package var json: JSONValue {
    var object = JSONObject()
    object["filename"] = .string(filename)
    object["format"] = .string(format)
    object["check-errors"] = JSONValue(checkErrors)
    let others: [(String, UInt64)] = [
      ("image-end-offset", imageEndOffset), ("corruptions", corruptions), ("leaks", leaks),
      ("corruptions-fixed", corruptionsFixed), ("leaks-fixed", leaksFixed),
      ("total-clusters", totalClusters), ("allocated-clusters", allocatedClusters),
      ("fragmented-clusters", fragmentedClusters), ("compressed-clusters", compressedClusters),
    ]
    for (name, value) in others where value != 0 { object[name] = JSONValue(value) }
    return .object(object)
  }

  /// The text for people.
  package var text: String {
    var text = ""
    if corruptions == 0, leaks == 0, checkErrors == 0 {
      text += "No errors were found on the image.\n"
    }
    if corruptions > 0 {
      text += """

        \(corruptions) errors were found on the image.
        Data may be corrupted, or further writes to the image may corrupt it.

        """
    }
    if leaks > 0 {
      text += """

        \(leaks) leaked clusters were found on the image.
        This means waste of disk space, but no harm to data.

        """
    }
    if checkErrors > 0 {
      text += "\n\(checkErrors) internal errors have occurred during the check.\n"
    }
    if totalClusters != 0, allocatedClusters != 0 {
      let share = Sizes.hundredths(allocatedClusters, totalClusters)
      let fragmented = Sizes.hundredths(fragmentedClusters, allocatedClusters)
      let compressed = Sizes.hundredths(compressedClusters, allocatedClusters)
      text += "\(allocatedClusters)/\(totalClusters) = \(share)% allocated, \(fragmented)% "
      text += "fragmented, \(compressed)% compressed clusters\n"
    }
    if imageEndOffset > 0 { text += "Image end offset: \(imageEndOffset)\n" }
    return text
  }
}
