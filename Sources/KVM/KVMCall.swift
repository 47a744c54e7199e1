import CKVM
import CPU
import Glibc
import Host

/// One ioctl. Throws `SystemError` under the request's name; `EINTR` is retried, as everywhere but in KVM_RUN.
@discardableResult
func kvmCall(
  _ name: String, _ descriptor: Int32, _ request: UInt, _ argument: UnsafeMutableRawPointer?
) throws(SystemError) -> Int {
  while true {
    // SAFETY: the caller's pointer is valid through the call, of the size the request names.
    let result = unsafe goliath_kvm_ioctl(descriptor, request, argument)
    if result >= 0 { return result }
    if result != -Int(EINTR) { throw SystemError(call: name, code: Int32(-result)) }
  }
}

/// One ioctl whose argument is a number.
@discardableResult
func kvmCall(
  _ name: String, _ descriptor: Int32, _ request: UInt, value: UInt64 = 0
) throws(SystemError) -> Int {
  while true {
    let result = goliath_kvm_ioctl_value(descriptor, request, value)
    if result >= 0 { return result }
    if result != -Int(EINTR) { throw SystemError(call: name, code: Int32(-result)) }
  }
}

/// One ioctl that reads a structure.
@discardableResult
func kvmSet<T: BitwiseCopyable>(
  _ name: String, _ descriptor: Int32, _ request: UInt, _ value: T
) throws(SystemError) -> Int {
  var copy = value
  return try kvmExchange(name, descriptor, request, &copy)
}

/// One ioctl that reads or fills a structure.
@discardableResult
func kvmExchange<T: BitwiseCopyable>(
  _ name: String, _ descriptor: Int32, _ request: UInt, _ value: inout T
) throws(SystemError) -> Int {
  // SAFETY: the structure outlives the call, and is the one that the request names.
  try unsafe withUnsafeMutablePointer(to: &value) { pointer throws(SystemError) -> Int in
    try unsafe kvmCall(name, descriptor, request, UnsafeMutableRawPointer(pointer))
  }
}

/// One ioctl on a variable-sized structure that `words` holds.
@discardableResult
func kvmExchange<T: BitwiseCopyable>(
  _ name: String, _ descriptor: Int32, _ request: UInt, array words: inout [T]
) throws(SystemError) -> Int {
  while true {
    // SAFETY: the array outlives the call; its first word tells the kernel how far it may go.
    let result = unsafe words.withUnsafeMutableBytes {
      unsafe goliath_kvm_ioctl(descriptor, request, $0.baseAddress)
    }
    if result >= 0 { return result }
    if result != -Int(EINTR) { throw SystemError(call: name, code: Int32(-result)) }
  }
}

extension AcceleratorError {
  /// A refused KVM request on a running machine.
  init(_ error: SystemError) { self.init(.failed, "kvm: \(error)") }

  /// Turns the operating system's refusal in `body` into an accelerator's failure.
  static func wrapping<T>(
    _ body: () throws(SystemError) -> T
  ) throws(AcceleratorError) -> T {
    do { return try body() } catch { throw AcceleratorError(error) }
  }
}
