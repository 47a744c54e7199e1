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
    let reply: [UInt8]
    do throws(QAPIError) {
      let printer = try dispatch(try request.call.get(), session.beginReply())
      reply = session.reply(to: request, printer, isOutOfBand: isOutOfBand)
    } catch { reply = session.reply(to: request, failure: error, isOutOfBand: isOutOfBand) }
    require((try? JSONValue(parsing: reply)) != nil, "a reply is no JSON value")
  }

  private func dispatch(
    _ call: QMPRequest.Call, _ fresh: JSONPrinter
  ) throws(QAPIError) -> JSONPrinter {
    var printer = fresh
    guard call.command.isAsynchronous else {
      _ = try call.command.dispatch(call.arguments, to: handlers, into: &printer)
      return printer
    }
    nonisolated(unsafe) let handlers = handlers
    nonisolated(unsafe) var result = Result<JSONPrinter, QAPIError>.success(fresh)
    Task.immediate {
      do throws(QAPIError) {
        var printer = fresh
        _ = try await call.command.dispatchAsynchronously(
          call.arguments, to: handlers, into: &printer)
        result = .success(printer)
      } catch { result = .failure(error) }
    }
    return try result.get()
  }
}
