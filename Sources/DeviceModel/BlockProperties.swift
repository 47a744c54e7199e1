/// Properties that all devices with a disk have in common.
package enum BlockProperties {
  package static let all = [
    PropertyDescription(
      "drive", "str", default: nil, "Node name or ID of a block device to use as a backend"),
    PropertyDescription("bootindex", "int32"),
    PropertyDescription(
      "backend_defaults", "OnOffAuto", default: .string("auto"), "on/off/auto"),
    PropertyDescription("logical_block_size", "size", default: .unsigned(0)),
    PropertyDescription("physical_block_size", "size", default: .unsigned(0)),
    PropertyDescription("min_io_size", "size", default: .unsigned(0)),
    PropertyDescription("opt_io_size", "size", default: .unsigned(0)),
    PropertyDescription("discard_granularity", "size", default: .unsigned(0xFFFF_FFFF)),
    PropertyDescription("write-cache", "OnOffAuto", default: .string("auto"), "on/off/auto"),
    PropertyDescription("share-rw", "bool", default: .bool(false)),
    PropertyDescription(
      "rerror", "BlockdevOnError", default: .string("auto"),
      "Error handling policy (report/ignore/enospc/stop/auto)"),
    PropertyDescription(
      "werror", "BlockdevOnError", default: .string("auto"),
      "Error handling policy (report/ignore/enospc/stop/auto)"),
    PropertyDescription(
      "account-invalid", "OnOffAuto", default: .string("auto"), "on/off/auto"),
    PropertyDescription("account-failed", "OnOffAuto", default: .string("auto"), "on/off/auto"),
  ]
}
