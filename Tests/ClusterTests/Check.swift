import Testing

/// As `#expect(value == expected)`, for values of calls that change what they are called on, which the macro does not take.
func check<T: Equatable>(
  _ value: T, _ expected: T, sourceLocation: SourceLocation = #_sourceLocation
) {
  #expect(value == expected, sourceLocation: sourceLocation)
}
