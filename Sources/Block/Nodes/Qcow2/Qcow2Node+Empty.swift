import Host

extension Qcow2Node {
  /// Forgets all that this layer holds, so that the backing file shows through (`commit`). Throws what writing tables throws.
  package func makeEmpty() throws(BlockError) {
    try exclusively { () throws(BlockError) in
      if length > 0 { try discardMapped(0..<length, .full) }
    }
    try flush()
  }
}
