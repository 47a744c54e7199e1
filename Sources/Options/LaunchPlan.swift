// The outcome of a command line.

/// What the program is asked to do, and what to warn about first.
package struct LaunchPlan: Sendable, Equatable {
  package var action: LaunchAction
  /// Printed on stderr before anything else.
  package var warnings: [OptionWarning]
}

/// What the program is asked to do.
package enum LaunchAction: Sendable, Equatable {
  /// Build the machine and run it.
  case run(LaunchConfiguration)
  /// Print something and exit with status 0; `HelpText` makes the text.
  case help(HelpTopic)
}

/// What to print.
package enum HelpTopic: Sendable, Equatable {
  /// `-help`.
  case options
  /// `-version`.
  case version
  /// `-machine help`.
  case machines
  /// `-machine TYPE,help`.
  case machineProperties(type: String)
  /// `-cpu help`.
  case cpus
  /// `-accel help`.
  case accelerators
  /// `-accel tcg,help`: its properties.
  case softwareCPU
  /// `-device help`.
  case devices
  /// `-device TYPE,help`.
  case deviceProperties(type: String, origin: OptionOrigin)
  /// `-object help`.
  case objects
  /// `-object TYPE,help`.
  case objectProperties(type: String, origin: OptionOrigin)
  /// `-chardev help`.
  case chardevs
  /// `-drive format=help`.
  case blockDrivers
  /// `-netdev help`.
  case netBackends
  /// `-nic model=help`.
  case netModels
  /// `-d help`.
  case logItems
  /// `-trace help`.
  case traceEvents
  /// `-smp help`, `-boot help`, …: the parameters of an option group.
  case group(String)
  /// `-vga help`.
  case videoCards
  /// `-display help`.
  case displays
  /// `-L help`.
  case dataDirectories
}
