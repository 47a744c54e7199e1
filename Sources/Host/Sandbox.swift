import CSeccomp
import Glibc

/// `-sandbox`: system calls that this process needs for nothing, and hence may not make. A denied call fails with EPERM.
///
/// A filter cannot be taken back; it holds for threads and processes made later too. seccomp(2), libseccomp 2.5.
package struct Sandbox: Equatable, Sendable {
  /// Groups of system calls, as `-sandbox` names them.
  package struct Group: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Calls that no VMM makes: mounting, swapping, rebooting, loading kernels and modules. Always denied.
    package static let base = Group(rawValue: 1)
    /// Calls that only old programs make.
    package static let obsolete = Group(rawValue: 2)
    /// Changing user, group or session.
    package static let privileges = Group(rawValue: 4)
    /// Starting programs and processes; threads may be made.
    package static let spawn = Group(rawValue: 8)
    /// Changing priorities, scheduling and affinity.
    package static let resourceControl = Group(rawValue: 16)
  }

  /// What is denied.
  package var denied: Group

  package init(denying denied: Group) { self.denied = denied.union(.base) }

  /// Applies the filter to all threads of the process, or (for tests) to the calling thread alone. No program that is started later can gain
  /// privileges by its set-user-ID bit.
  ///
  /// Throws `SystemError` for the step that failed; nothing is filtered then.
  package func install(allThreads: Bool = true) throws(SystemError) {
    guard let filter = unsafe seccomp_init(Action.allow) else {
      throw SystemError(call: "seccomp_init", code: ENOMEM)
    }
    defer { unsafe seccomp_release(filter) }
    for (group, names) in Sandbox.names where denied.contains(group) {
      for name in names { unsafe try deny(name, in: filter) }
    }
    if denied.contains(.spawn) {
      // A thread is made with CLONE_THREAD; the bit cannot be seen in clone3's memory, so that call does not exist: the C library
      // then falls back to clone.
      unsafe try deny("clone3", in: filter, as: Action.fail(ENOSYS))
      let isProcess = unsafe scmp_arg_cmp(
        arg: 0, op: SCMP_CMP_MASKED_EQ, datum_a: Sandbox.cloneThread, datum_b: 0)
      unsafe try deny("clone", in: filter, when: isProcess)
    }
    try check("seccomp_attr_set", unsafe seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 1))
    if allThreads {
      try check("seccomp_attr_set", unsafe seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1))
    }
    try check("seccomp_load", unsafe seccomp_load(filter))
  }

  /// CLONE_THREAD of linux/sched.h.
  private static let cloneThread: UInt64 = 0x1_0000

  /// What becomes of a call (seccomp(2), "filter return values").
  private enum Action {
    static let allow: UInt32 = 0x7FFF_0000
    static func fail(_ code: Int32) -> UInt32 { 0x0005_0000 | UInt32(code) }
  }

  private func deny(
    _ name: String, in filter: scmp_filter_ctx, as action: UInt32 = Action.fail(EPERM),
    when condition: scmp_arg_cmp? = nil
  ) throws(SystemError) {
    // SAFETY: the string lives through the call; a name that this architecture lacks needs no rule.
    let number = unsafe seccomp_syscall_resolve_name(name)
    guard number >= 0 else { return }
    // SAFETY: the conditions outlive the call, which copies them.
    let code = unsafe [condition].compactMap { unsafe $0 }.withUnsafeBufferPointer {
      unsafe seccomp_rule_add_array(
        filter, action, number, UInt32($0.count), $0.baseAddress)
    }
    try check("seccomp_rule_add \(name)", code)
  }

  private func check(_ call: String, _ code: Int32) throws(SystemError) {
    if code < 0 { throw SystemError(call: call, code: -code) }
  }

  private static let names: [(Group, [String])] = [
    (
      .base,
      [
        "reboot", "swapon", "swapoff", "syslog", "mount", "umount2", "pivot_root", "kexec_load",
        "kexec_file_load", "init_module", "finit_module", "delete_module", "afs_syscall",
        "getpmsg", "putpmsg", "security", "tuxcall", "vserver", "acct", "quotactl",
        "settimeofday", "clock_settime", "sethostname", "setdomainname",
      ]
    ),
    (
      .obsolete,
      [
        "_sysctl", "create_module", "get_kernel_syms", "query_module", "sysfs", "uselib", "ustat",
        "nfsservctl",
      ]
    ),
    (
      .privileges,
      [
        "setuid", "setgid", "setpgid", "setsid", "setreuid", "setregid", "setresuid",
        "setresgid", "setfsuid", "setfsgid", "setgroups", "capset",
      ]
    ),
    (.spawn, ["fork", "vfork", "execve", "execveat", "unshare", "setns"]),
    (
      .resourceControl,
      [
        "setpriority", "sched_setparam", "sched_setscheduler", "sched_setattr",
        "sched_setaffinity", "ioprio_set",
      ]
    ),
  ]
}
