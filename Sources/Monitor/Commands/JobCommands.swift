import Host
import Jobs
import Machine
package import QAPI

// schemas/job.json

extension MonitorCommands: @MainLoop JobCommands {
  package func queryJobs() throws(QAPIError) -> [JobInfo] { try context.machine.jobs.list }

  package func jobPause(id: String) throws(QAPIError) { try context.machine.jobs.pause(id) }

  package func jobResume(id: String) throws(QAPIError) { try context.machine.jobs.resume(id) }

  package func jobCancel(id: String) throws(QAPIError) { try context.machine.jobs.cancel(id) }

  package func jobComplete(id: String) throws(QAPIError) { try context.machine.jobs.complete(id) }

  package func jobDismiss(id: String) throws(QAPIError) { try context.machine.jobs.dismiss(id) }

  package func jobFinalize(id: String) throws(QAPIError) { try context.machine.jobs.finalize(id) }
}
