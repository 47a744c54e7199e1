import CPU
import Glibc
import Host
import Machine
import Options

/// Command line in, running node out.
@main
enum Goliath {
  nonisolated static func main() {
    Signals.prepare()
    let arguments = CommandLine.arguments
    let program = arguments.first?.split(separator: "/").last.map(String.init) ?? "goliath"
    Log.programName = program
    let parser = CommandLineParser(catalog: Catalog.make())
    let plan: LaunchPlan
    do throws(OptionError) {
      plan = try parser.parse(Array(arguments.dropFirst()), programName: program)
      for warning in plan.warnings { warning.lines(program: program).forEach(Log.line) }
      if case .help(let topic) = plan.action {
        let lines = try HelpText.lines(for: topic, catalog: parser.catalog)
        FileDescriptor.writeToStandardOutput(lines.joined(separator: "\n") + "\n")
        exit(0)
      }
    } catch {
      error.lines(program: program).forEach(Log.line)
      exit(1)
    }
    guard case .run(let configuration) = plan.action else { exit(0) }
    Log.setMessageFormat(
      timestamps: configuration.messages.timestamp,
      guestName: configuration.messages.guestName ? configuration.name.guest : nil)
    // Before any thread is made: a fork takes only the calling one along.
    var daemon: Daemon?
    if configuration.process.daemonize {
      do { daemon = try Daemon.begin() } catch {
        Log.error("could not daemonize: \(error)")
        exit(1)
      }
    }
    if let name = configuration.name.process { HostThread.nameProcess(name) }
    do throws(OptionError) {
      try HostSettings.apply(configuration)
    } catch {
      error.lines(program: program).forEach(Log.line)
      exit(1)
    }
    if let form = configuration.clusterCheck {
      exit(MainLoop.run { ClusterCheckRun.start(configuration, form) })
    }
    let announced = daemon
    exit(
      MainLoop.run {
        let node = Node(configuration, daemon: announced)
        node.start()
      })
  }
}
