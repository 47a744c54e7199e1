package import Host

/// Where a guest's random number generator takes its bytes: what an `rng-*` object offers.
@MainLoop
package protocol RandomSource: AnyObject {
  /// Asks for up to `count` bytes; `deliver` gets at least one, later or at once, or none when the source has failed.
  /// Requests are served in order.
  func request(_ count: Int, _ deliver: @escaping @MainLoop ([UInt8]) -> Void)
  /// Forgets all requests: the guest was reset.
  func cancelRequests()
}
