import Host

/// A moment in local time.
enum LocalDate {
  /// `2026-11-23 05:29:20`.
  static func text(seconds: UInt32) -> String {
    let local = Int64(seconds) + HostClock.localOffset(at: Int64(seconds))
    let days = (local >= 0 ? local : local - 86_399) / 86_400
    let rest = UInt64(local - days * 86_400)
    let (year, month, day) = civil(days)
    let date = digits(UInt64(max(0, year)), 4) + "-" + digits(month, 2) + "-" + digits(day, 2)
    let time = digits(rest / 3600, 2) + ":" + digits(rest / 60 % 60, 2) + ":"
    return date + " " + time + digits(rest % 60, 2)
  }

  /// A number with leading zeros.
  static func digits(_ value: UInt64, _ count: Int) -> String {
    let text = String(value)
    return String(repeating: "0", count: max(0, count - text.utf8.count)) + text
  }

  /// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar. Years start in March here, so that the day that some
  /// have comes last.
  private static func civil(_ days: Int64) -> (Int64, UInt64, UInt64) {
    let shifted = days + 719_468
    let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
    let dayOfEra = shifted - era * 146_097
    let yearOfEra =
      (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let marchMonth = (5 * dayOfYear + 2) / 153
    let day = dayOfYear - (153 * marchMonth + 2) / 5 + 1
    let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    return (year, UInt64(month), UInt64(day))
  }
}
