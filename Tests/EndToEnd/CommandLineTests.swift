import Support
import Testing

/// The program as a user calls it, without a guest.
@Suite struct CommandLineTests {
}
