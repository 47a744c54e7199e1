/// What `device-list-properties` says of properties; the same name and type means the same with every device.
enum PropertyTexts {
  /// The text for a property; nil for one that has none.
  static func text(_ name: String, _ type: String) -> String? {
    if type == "bool" { return switches.contains(name) ? "on/off" : nil }
    return others["\(name):\(type)"]
  }

  private static let switches = Set(
    """
    aer any_layout ats csum ctrl_guest_offloads ctrl_mac_addr ctrl_rx ctrl_rx_extra ctrl_vlan \
    ctrl_vq deflate-on-oom emergency-write event_idx free-page-hint free-page-reporting gso \
    guest_announce guest_csum guest_ecn guest_rsc_ext guest_tso4 guest_tso6 guest_ufo hash \
    host_ecn host_tso4 host_tso6 host_ufo hv-apicv hv-avic hv-crash hv-emsr-bitmap hv-evmcs \
    hv-frequencies hv-ipi hv-reenlightenment hv-relaxed hv-reset hv-runtime hv-stimer \
    hv-stimer-direct hv-syndbg hv-synic hv-time hv-tlbflush hv-tlbflush-direct hv-tlbflush-ext \
    hv-vapic hv-vpindex hv-xmm-input indirect_desc ioeventfd iommu_platform master migrate-extra \
    modern-pio-notify mq mrg_rxbuf msi multifunction notify_on_empty packed page-per-vq \
    page-poison queue_reset rss status vapic virtio-pci-bus-master-bug-migration \
    x-ats-page-aligned x-disable-pcie x-pcie-deverr-init x-pcie-extcap-init x-pcie-flr-init \
    x-pcie-lnkctl-init x-pcie-lnksta-dllla x-pcie-pm-init
    """.split(separator: " ").map(String.init))

  private static let others = [
    "addr:int32": "Slot and optional function number, example: 06.0 or 06",
    "audiodev:str": "ID of an audiodev to use as a backend",
    "chardev:str": "ID of a chardev to use as a backend",
    "disable-legacy:OnOffAuto": "on/off/auto",
    "hv-no-nonarch-coresharing:OnOffAuto": "on/off/auto",
    "mac:str": "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56",
    "netdev:str": "ID of a netdev to use as a backend",
  ]
}
