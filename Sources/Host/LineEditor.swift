import CEdit

/// Lines typed at the process's terminal, edited with libedit (editline(7)): cursor keys, history, completion, and text that
/// appears above the line while it is being edited.
///
/// The library is loaded when the first editor is made. One per process; not for several threads.
package final class LineEditor {
  /// What a call of `onWait` came to.
  package enum Wait {
    /// Standard input has a key, or is at its end.
    case ready
    /// The line is given up.
    case interrupted
    /// No more input will be read.
    case end
  }

  /// What the user entered.
  package enum Line: Equatable {
    case text(String)
    case interrupted
    case end
  }

  /// Waits until a key can be read, doing other things meanwhile.
  package var onWait: () -> Wait = { .ready }
  /// Tab was pressed: the line and the cursor's place in its UTF-8. May call `insert` and `printAbove`.
  package var onComplete: (_ line: String, _ cursor: Int) -> Void = { _, _ in }
  private(set) package var isEditing = false

  /// Nil when libedit is not installed, does not take the terminal, or has an editor already.
  package init?(program: String) {
    let context = unsafe Unmanaged.passUnretained(self).toOpaque()
    // SAFETY: the caller keeps the only editor for as long as it reads lines; callbacks come only while it does.
    let code = unsafe goliath_edit_open(program, context, lineEditorWaits, lineEditorCompletes)
    if code != 0 { return nil }
  }

  /// Edits one line. In `prompt`, `\u{1}` stands around characters that take no room, such as colours.
  package func readLine(prompt: String) -> Line {
    isEditing = true
    defer { isEditing = false }
    var interrupted: Int32 = 0
    // SAFETY: the string is copied before the next call.
    guard let line = unsafe goliath_edit_line(prompt, &interrupted) else {
      return interrupted != 0 ? .interrupted : .end
    }
    return .text(unsafe String(cString: line))
  }

  /// Inserts text at the cursor; within `onComplete`.
  package func insert(_ text: String) {
    unsafe goliath_edit_insert(text)  // SAFETY: copied by the call.
  }

  /// Runs `print` with prompt and line removed from the screen, then draws them again. Within the two callbacks.
  package func above(_ print: () -> Void) {
    goliath_edit_hide()
    print()
    goliath_edit_show()
  }

  /// Takes the terminal's new size.
  package func resize() { goliath_edit_resize() }

  /// How many lines the history keys reach back.
  package func setHistorySize(_ count: Int32) { goliath_edit_history_size(count) }

  /// Makes a line reachable by the history keys.
  package func remember(_ line: String) {
    unsafe goliath_edit_remember(line)  // SAFETY: copied by the call.
  }
}

// SAFETY of both: `context` is the editor that is reading a line on this thread, see `LineEditor.init`.

private func lineEditorWaits(_ context: UnsafeMutableRawPointer?) -> Int32 {
  guard let context = unsafe context else { return GOLIATH_EDIT_END }
  let editor = unsafe Unmanaged<LineEditor>.fromOpaque(context).takeUnretainedValue()
  switch editor.onWait() {
  case .ready: return GOLIATH_EDIT_READY
  case .interrupted: return GOLIATH_EDIT_INTERRUPTED
  case .end: return GOLIATH_EDIT_END
  }
}

private func lineEditorCompletes(
  _ context: UnsafeMutableRawPointer?, _ line: UnsafePointer<CChar>?, _ length: Int, _ cursor: Int
) {
  guard let context = unsafe context, let line = unsafe line else { return }
  let editor = unsafe Unmanaged<LineEditor>.fromOpaque(context).takeUnretainedValue()
  unsafe editor.onComplete(String(cString: line), cursor)
}
