package import QAPI
package import Host

/// What decides which names are let in.
package protocol Authorization {
  /// Whether the bearer of `name` may enter. Throws `QAPIError` when that cannot be told; then it may not.
  mutating func allows(_ name: String) throws(QAPIError) -> Bool
}

/// One name that is let in (QEMU's object `authz-simple`).
package struct AuthorizationName: Authorization, Equatable, Sendable {
  /// The name.
  package var identity: String

  package init(_ properties: AuthZSimpleProperties) { identity = properties.identity }

  package func allows(_ name: String) -> Bool { name == identity }
}

/// Rules of which the first that matches a name decides (QEMU's object `authz-list`).
package struct AuthorizationList: Authorization, Equatable, Sendable {
  /// What is decided when no rule matches.
  package var policy: QAuthZListPolicy
  package var rules: [QAuthZListRule]

  package init(_ properties: AuthZListProperties) {
    policy = properties.policy ?? .deny
    rules = properties.rules ?? []
  }

  package func allows(_ name: String) -> Bool {
    for rule in rules {
      let isMatch =
        rule.format == .glob
        ? FileNames.matches(name, pattern: rule.match) : name.utf8.elementsEqual(rule.match.utf8)
      if isMatch { return rule.policy == .allow }
    }
    return policy == .allow
  }
}
