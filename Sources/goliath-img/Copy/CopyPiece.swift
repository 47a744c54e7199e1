import Block
import Host

/// A piece of a copy on its way through one thread.
struct CopyPiece {
  private enum Kind { case data, zero, backing }

  private let copier: Copier
  private let buffer: IOBuffer
  private var range: Range<UInt64> = 0..<0
  /// What the source says, without gaps.
  private var runs: [(kind: Kind, range: Range<UInt64>)] = []
  /// What is to be done with the target.
  private var steps: [(kind: Kind, range: Range<UInt64>)] = []

  init(_ copier: Copier) {
    self.copier = copier
    buffer = IOBuffer(
      count: Int(copier.pieceSize))
  }

  /// Reads a piece and decides what is to be written.
  mutating func read(_ range: Range<UInt64>) throws(ToolError) {
    self.range = range
    runs.removeAll(keepingCapacity: true)
    steps.removeAll(keepingCapacity: true)
    var offset = range.lowerBound
    while offset < range.upperBound {
      let run = try status(offset, range.upperBound - offset)
      if let last = runs.last, last.kind == run.kind {
        runs[runs.count - 1].range = last.range.lowerBound..<run.range.upperBound
      } else {
        runs.append(run)
      }
      offset = run.range.upperBound
    }
    for run in runs where run.kind == .data { try read(run.range, runs.count == 1) }
    plan()
  }

  /// The piece is all zeros, of which nothing has to be written.
  var isNothing: Bool {
    steps.isEmpty && copier.targetIsZero && copier.targetBackingLength == nil
      && runs.allSatisfy { $0.kind == .zero }
  }

  /// Where zeros end that begin at `offset`, or some of them: at most `count` bytes behind; `offset` itself where there are none.
  func endOfZeros(_ offset: UInt64, _ count: UInt64) throws(ToolError) -> UInt64 {
    let run = try status(offset, count)
    return run.kind == .zero ? run.range.upperBound : offset
  }

  /// Writes what `read` has prepared.
  mutating func write() throws(ToolError) {
    for step in steps {
      let offset = step.range.lowerBound
      let count = step.range.upperBound - offset
      do throws(BlockError) {
        switch step.kind {
        case .backing: break
        case .zero: try copier.target.writeZeroes(offset, count, .mayUnmap)
        case .data:
          try copier.target.write(
            offset, from: memory(step.range), copier.isCompressed ? .compressed : [])
        }
      } catch {
        throw ToolError("error while writing at byte \(offset): \(Images.reason(error))")
      }
    }
  }

  // MARK: -

  private func memory(_ part: Range<UInt64>) -> IOVector {
    let start = Int(part.lowerBound - range.lowerBound)
    return buffer.vector(start..<start + part.count)
  }

  /// What the source holds from `offset` on.
  private func status(_ offset: UInt64, _ count: UInt64) throws(ToolError) -> (
    kind: Kind, range: Range<UInt64>
  ) {
    let position = offset &+ copier.sourceStart
    guard let part = copier.source.part(at: position), position < part.start &+ part.length else {
      return (.zero, offset..<offset + count)
    }
    let inside = position - part.start
    let count = min(count, part.length - inside)
    do throws(BlockError) {
      let stop = copier.targetBackingLength == nil ? nil : 1
      let status = try Chain.status(part.layers, inside, count, stop: stop).status
      var end = offset + max(1, min(count, status.length))
      var kind: Kind = status.isZero ? .zero : .data
      if let backing = copier.targetBackingLength, !status.isAllocated {
        if offset < backing {
          if end > backing { end = backing }
          kind = .backing
        } else {
          kind = .zero
        }
      }
      return (kind, offset..<end)
    } catch {
      if copier.isSalvaging {
        Standard.complain(
          "warning: error while reading block status at offset \(offset): \(Images.reason(error))")
        return (.data, offset..<offset + min(count, 512))
      }
      throw ToolError(
        "error while reading block status at offset \(offset): \(Images.reason(error))")
    }
  }

  private func read(_ run: Range<UInt64>, _ isAll: Bool) throws(ToolError) {
    var offset = run.lowerBound
    while offset < run.upperBound {
      let position = offset &+ copier.sourceStart
      guard let part = copier.source.part(at: position), let node = part.layers.first?.node else {
        return
      }
      let inside = position - part.start
      let end = min(run.upperBound, offset &+ (part.length - inside))
      do throws(BlockError) {
        try node.read(inside, into: memory(offset..<end))
      } catch {
        guard copier.isSalvaging else {
          throw ToolError("error while reading at byte \(offset): \(Images.reason(error))")
        }
        salvage(node, inside, offset..<end)
      }
      offset = end
    }
  }

  /// Reads sector by sector; what cannot be read is zero.
  private func salvage(_ node: any BlockNode, _ inside: UInt64, _ run: Range<UInt64>) {
    var offset = run.lowerBound
    while offset < run.upperBound {
      let end = min(run.upperBound, offset + 512)
      let target = memory(offset..<end)
      do throws(BlockError) {
        try node.read(inside + (offset - run.lowerBound), into: target)
      } catch {
        Standard.complain(
          "warning: error while reading offset \(offset): \(Images.reason(error))")
        target.fill(0)
      }
      offset = end
    }
  }

  /// Turns what the source says into what is written: whole units, zeros told from data by looking.
  private mutating func plan() {
    if copier.targetBackingLength != nil {
      for run in runs { planExactly(run.kind, run.range) }
      return
    }
    let unit = copier.granularity
    if copier.sparseSize == 0 {
      for run in runs where run.kind == .zero { memory(run.range).fill(0) }
      return append(.data, range)
    }
    var index = 0
    var offset = range.lowerBound
    while offset < range.upperBound {
      let end = min(range.upperBound, (offset / unit + 1) &* unit)
      while runs[index].range.upperBound <= offset { index += 1 }
      // A long run of zeros needs no look at each unit.
      let run = runs[index]
      if run.kind == .zero, run.range.upperBound >= end {
        let whole =
          run.range.upperBound == range.upperBound
          ? run.range.upperBound : max(end, run.range.upperBound / unit &* unit)
        append(.zero, offset..<whole)
        offset = whole
        continue
      }
      var position = index
      while position < runs.count, runs[position].range.lowerBound < end {
        let overlap = runs[position].range.clamped(to: offset..<end)
        if runs[position].kind == .zero, !overlap.isEmpty { memory(overlap).fill(0) }
        position += 1
      }
      append(memory(offset..<end).isZero ? .zero : .data, offset..<end)
      offset = end
    }
  }

  /// Over a backing file exactly what the source's layer holds is written.
  private mutating func planExactly(_ kind: Kind, _ run: Range<UInt64>) {
    guard kind == .data, copier.sparseSize > 0 else {
      if kind == .zero, copier.sparseSize == 0 {
        memory(run).fill(0)
        return append(.data, run, zerosAreWritten: true)
      }
      return append(kind, run, zerosAreWritten: true)
    }
    let unit = copier.granularity
    var offset = run.lowerBound
    while offset < run.upperBound {
      let end = min(run.upperBound, (offset / unit + 1) &* unit)
      append(memory(offset..<end).isZero ? .zero : .data, offset..<end, zerosAreWritten: true)
      offset = end
    }
  }

  private mutating func append(
    _ kind: Kind, _ part: Range<UInt64>, zerosAreWritten: Bool = false
  ) {
    if kind == .zero, copier.targetIsZero, !zerosAreWritten { return }
    if let last = steps.last, last.kind == kind, last.range.upperBound == part.lowerBound {
      steps[steps.count - 1].range = last.range.lowerBound..<part.upperBound
    } else {
      steps.append((kind, part))
    }
  }
}
