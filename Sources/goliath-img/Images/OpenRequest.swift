import Block

/// How the host's cache is used for an image (`-t`, `-T`).
struct CacheOption: Sendable {
  var mode = CacheMode()
  /// Writes may stay in the disk's own cache until a flush.
  var isWriteBack = true

  var bypassesHostCache: Bool { mode.isDirect }

  init() {}

  /// Reads a mode's name; `what` names the option in the error.
  init(_ name: String, _ what: String) throws(ToolError) {
    guard let known = CacheMode.named(name) else { throw ToolError("Invalid \(what): \(name)") }
    mode = known.mode
    isWriteBack = known.isWriteBack
  }
}

/// What image is to be opened, and how.
struct OpenRequest: Sendable {
  /// A file name, a `json:` name, or a list of options.
  var text: String
  var isOptions = false
  var format: String?
  var cache = CacheOption()
  var isWritable = false
  var isResizing = false
  /// Backing files are opened, too.
  var hasBacking = true
  /// Nothing is read but what the image says of itself.
  var isMetadataOnly = false
  /// The metadata may be damaged.
  var isForChecking = false
  var sharesByForce = false
  /// Discards reach the host.
  var unmaps = true
  /// No warning about a guessed format.
  var isQuiet = false

  init(_ text: String) { self.text = text }

  /// What the options of most verbs say of an image.
  init(_ arguments: Arguments, _ text: String) throws(ToolError) {
    self.text = text
    isOptions = arguments.has("image-opts")
    format = arguments.value("f")
    sharesByForce = arguments.has("U")
    if isOptions, format != nil {
      throw ToolError("--image-opts and --format are mutually exclusive")
    }
  }
}
