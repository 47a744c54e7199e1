// What a launch configuration says about the host process, its log and messages.

/// What concerns the host process, not the guest.
package struct ProcessConfiguration: Sendable, Equatable {
  /// `-pidfile`.
  package var pidFile: String?
  /// `-daemonize`: the parent exits with 0 when sockets listen and the pid file is written.
  package var daemonize = false
  /// `-sandbox on`; nil: no filter.
  package var sandbox: SandboxConfiguration?
  /// `-add-fd`, in order.
  package var addedDescriptors: [AddedDescriptor] = []
}

/// `-add-fd`: an inherited descriptor that goes into a set.
package struct AddedDescriptor: Sendable, Equatable {
  package var descriptor: Int32
  package var set: Int64
  /// What the user noted with it.
  package var note: String?
  package var origin: OptionOrigin
}

/// `-sandbox on,…`: which system calls are refused beyond the base filter.
package struct SandboxConfiguration: Sendable, Equatable {
  /// Treatment of calls that change privileges.
  package enum Privileges: String, Sendable, CaseIterable { case allow, deny, children }
  /// Obsolete system calls are refused.
  package var deniesObsolete = true
  /// Changing user or capabilities.
  package var elevatePrivileges = Privileges.allow
  /// Starting other programs is refused.
  package var deniesSpawn = false
  /// Changing priorities and affinity is refused.
  package var deniesResourceControl = false
}

/// `-d`, `-D` and `-dfilter`.
package struct LogConfiguration: Sendable, Equatable {
  /// Items to log, valid names only, without duplicates.
  package var items: [String] = []
  /// File instead of stderr; `%d` in it stands for the process id.
  package var file: String?
  /// Trace events to switch, in order.
  package var traces: [TraceRequest] = []
  /// What concerns guest code is logged for these linear addresses only; empty: for all.
  package var ranges: [ClosedRange<UInt64>] = []
}

/// One pattern, or one file of patterns, of `-trace` or `-d trace:`.
package struct TraceRequest: Sendable, Equatable {
  package enum Source: Sendable, Equatable {
    case pattern(String)
    case file(String)
  }
  package var source: Source
  package var origin: OptionOrigin
}

/// `-msg`.
package struct MessageConfiguration: Sendable, Equatable {
  /// Messages start with the date and time.
  package var timestamp = false
  /// Messages carry the guest's name.
  package var guestName = false
}

/// `-overcommit`.
package struct OvercommitConfiguration: Sendable, Equatable {
  /// Guest RAM is locked in memory.
  package var lockMemory = false
}
