/// A date and time of day in the Gregorian calendar, without zone: what a real-time clock chip shows.
package struct CalendarTime: Equatable, Sendable, BitwiseCopyable {
  package var year: Int
  /// 1 to 12.
  package var month: Int
  /// 1 to 31.
  package var day: Int
  package var hour: Int
  package var minute: Int
  package var second: Int

  /// A date; fields out of range carry over into the next when it is converted to seconds.
  package init(year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int) {
    self.year = year
    self.month = month
    self.day = day
    self.hour = hour
    self.minute = minute
    self.second = second
  }

  /// The date `seconds` after 1970-01-01 00:00:00. Years beyond about 10^9 are not meaningful.
  package init(seconds: Int64) {
    let (days, rest) = Self.floorDivide(Int(seconds), 86_400)
    hour = rest / 3_600
    minute = rest / 60 % 60
    second = rest % 60
    // Years from 1 March, in eras of 400 years: leap days come last (proleptic Gregorian calendar).
    let (era, dayOfEra) = Self.floorDivide(days + 719_468, 146_097)
    let yearOfEra =
      (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let shiftedMonth = (5 * dayOfYear + 2) / 153
    day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
    month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
    year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  }

  /// Seconds since 1970-01-01 00:00:00. Years are taken to be within four digits or so.
  package var seconds: Int64 {
    let (carry, monthIndex) = Self.floorDivide(month - 1, 12)
    let shiftedMonth = (monthIndex + 10) % 12
    let y = year + carry - (monthIndex < 2 ? 1 : 0)
    let (era, yearOfEra) = Self.floorDivide(y, 400)
    let dayOfYear = (153 * shiftedMonth + 2) / 5 + day - 1
    let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
    let days = era * 146_097 + dayOfEra - 719_468
    return Int64(days * 86_400 + hour * 3_600 + minute * 60 + second)
  }

  /// 0 Sunday to 6 Saturday.
  package var weekday: Int { Self.floorDivide(Int(seconds / 86_400) + 4, 7).1 }

  private static func floorDivide(_ a: Int, _ b: Int) -> (Int, Int) {
    let remainder = a % b
    return remainder < 0 ? (a / b - 1, remainder + b) : (a / b, remainder)
  }
}
