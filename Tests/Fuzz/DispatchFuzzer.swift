import JSON
import Monitor
import QAPI

/// Requests of a client past negotiation: each gets one reply, which is JSON. Arguments are decoded; the handlers decline.
struct DispatchFuzzer: Fuzzer {
  private final class Handlers: DecliningHandlers {}
  private let handlers = Handlers()

  func run(_ input: [UInt8]) {
    var session = QMPSession(version: .current, isPretty: input.count % 2 == 1)
    do { try session.negotiate(input.count % 3 == 0 ? [.oob] : []) } catch { return }
    for part in pieces(input) {
      session.receive(part)
      while true {
        if let request = session.takeOutOfBand() {
          answer(request, &session, isOutOfBand: true)
        } else if let request = session.nextRequest() {
          answer(request, &session, isOutOfBand: false)
        } else {
          break
        }
      }
    }
  }

  private func answer(_ request: QMPRequest, _ session: inout QMPSession, isOutOfBand: Bool) {
    var result: Result<CommandResult, QAPIError>
    do throws(QAPIError) {
      let call = try request.call.get()
      result = .success(try dispatch(call) ?? .empty)
    } catch { result = .failure(error) }
    let reply = session.reply(to: request, result, isOutOfBand: isOutOfBand)
    require((try? JSONValue(parsing: reply)) != nil, "a reply is no JSON value")
  }

  private func dispatch(_ call: QMPRequest.Call) throws(QAPIError) -> CommandResult? {
    guard call.command.isAsynchronous else {
      return try call.command.dispatch(call.arguments, to: handlers)
    }
    nonisolated(unsafe) let handlers = handlers
    nonisolated(unsafe) var result: Result<CommandResult?, QAPIError> = .success(nil)
    Task.immediate {
      do throws(QAPIError) {
        result = .success(
          try await call.command.dispatchAsynchronously(call.arguments, to: handlers))
      } catch { result = .failure(error) }
    }
    return try result.get()
  }
}
