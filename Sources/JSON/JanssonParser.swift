internal import CJansson

/// Values through libjansson.
enum JanssonParser {
  /// The value, or nil when libjansson refuses the text for any reason.
  static func parse(_ bytes: [UInt8]) -> JSONValue? {
    let flags = size_t(JSON_DECODE_ANY | JSON_REJECT_DUPLICATES)
    var error = json_error_t()
    // SAFETY: the buffer outlives the call; libjansson copies what it keeps.
    let root = unsafe bytes.withUnsafeBytes { buffer -> JanssonRoot? in
      let start = unsafe buffer.baseAddress?.assumingMemoryBound(to: CChar.self)
      guard let pointer = unsafe json_loadb(start, buffer.count, flags, &error) else { return nil }
      return unsafe JanssonRoot(owned: pointer)
    }
    guard let root else { return nil }
    return root.value
  }
}

/// One reference to a libjansson value, given back when this goes.
@safe private final class JanssonRoot {
  // SAFETY: non-null, one reference owned by this object, never handed out.
  private let pointer: UnsafeMutablePointer<json_t>

  init(owned pointer: UnsafeMutablePointer<json_t>) { unsafe self.pointer = unsafe pointer }

  // SAFETY: gives back the one owned reference.
  deinit { unsafe json_decref(pointer) }

  // SAFETY: the tree lives as long as its root.
  var value: JSONValue { unsafe Self.convert(pointer) }

  /// SAFETY: `pointer` is a live value of a tree that nobody changes.
  private static func convert(_ pointer: UnsafeMutablePointer<json_t>) -> JSONValue {
    switch unsafe pointer.pointee.type {
    case JSON_OBJECT:
      var object = JSONObject()
      // SAFETY: iterators and keys are valid while the object is unchanged.
      var iterator = unsafe json_object_iter(pointer)
      while let current = unsafe iterator {
        if let key = unsafe json_object_iter_key(current),
          let value = unsafe json_object_iter_value(current)
        {
          _ = unsafe object.insertNew(String(cString: key), convert(value))
        }
        unsafe iterator = unsafe json_object_iter_next(pointer, current)
      }
      return .object(object)
    case JSON_ARRAY:
      // SAFETY: indices below the size give live elements.
      let count = unsafe json_array_size(pointer)
      var elements: [JSONValue] = []
      elements.reserveCapacity(count)
      for index in 0..<count {
        if let element = unsafe json_array_get(pointer, index) {
          elements.append(unsafe convert(element))
        }
      }
      return .array(elements)
    case JSON_STRING:
      // SAFETY: libjansson keeps `length` bytes of valid UTF-8 behind the pointer.
      let length = unsafe json_string_length(pointer)
      guard let start = unsafe json_string_value(pointer) else { return .string("") }
      let bytes = unsafe UnsafeRawBufferPointer(start: start, count: length)
      return .string(unsafe String(decoding: bytes, as: UTF8.self))
    case JSON_INTEGER: return .int(unsafe Int64(json_integer_value(pointer)))
    case JSON_REAL: return .double(unsafe json_real_value(pointer))
    case JSON_TRUE: return .bool(true)
    case JSON_FALSE: return .bool(false)
    default: return .null
    }
  }
}
