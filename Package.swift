// swift-tools-version: 6.2
import PackageDescription

/// Settings of every Swift target (style: Swift 6 mode, strict memory safety as an error).
let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
  .strictMemorySafety(),
  .treatWarning("StrictMemorySafety", as: .error),
]

/// The software CPU's inner loop, and what pages and interrupts between nodes pass through: no dynamic exclusivity checks. It is written with wrapping arithmetic and pointers to plain
/// structs throughout (-Ounchecked would gain nothing, and cannot be combined with strict memory safety).
let hotPath: [SwiftSetting] =
  strict + [
    .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))
  ]

func module(
  _ name: String, _ dependencies: [Target.Dependency] = [], settings: [SwiftSetting] = strict,
  linking: [LinkerSetting] = [], plugins: [Target.PluginUsage] = []
) -> Target {
  .target(
    name: name, dependencies: dependencies, exclude: ["README.md"], swiftSettings: settings,
    linkerSettings: linking, plugins: plugins)
}

func shim(_ name: String) -> Target {
  .target(
    name: name, path: "Sources/Shims/\(name)",
    cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-O2"])])
}

func tests(
  _ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []
) -> Target {
  .testTarget(
    name: name, dependencies: dependencies + ["Support"], exclude: exclude,
    swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")])
}

let package = Package(
  name: "goliath",
  products: [
    .executable(name: "goliath", targets: ["goliath"]),
    .executable(name: "goliath-shell", targets: ["goliath-shell"]),
    .executable(name: "goliath-img", targets: ["goliath-img"]),
  ],
  targets: [
    // Programs.
    .executableTarget(
      name: "goliath",
      dependencies: [
        "Monitor", "Options", "Security", "Machine", "Devices", "Virtio", "Net", "Block", "PCI",
        "KVM",
        "Translator", "Chardev", "Cluster",
        "DistIRQ",
        "CPU",
        "DeviceModel", "Shm", "QAPI", "JSON", "Host",
      ], swiftSettings: strict),
    .executableTarget(
      name: "goliath-shell", dependencies: ["QAPI", "JSON", "Host"], exclude: ["README.md"],
      swiftSettings: strict),
    .executableTarget(
      name: "goliath-img", dependencies: ["Block", "QAPI", "JSON", "Host"], exclude: ["README.md"],
      swiftSettings: strict),
    .executableTarget(name: "SchemaCompiler", dependencies: ["JSON"], swiftSettings: strict),
    .plugin(
      name: "GenerateQAPI", capability: .buildTool(), dependencies: ["SchemaCompiler"]),

    // What the product is about, from the top down.
    module(
      "Monitor",
      [
        "Machine", "Devices", "Virtio", "Net", "Block", "PCI", "Options", "Chardev", "DistIRQ",
        "DeviceModel", "CPU", "Jobs", "Shm", "Cluster", "QAPI", "JSON", "Host",
      ]),
    module("Options", ["Cluster", "QAPI", "JSON", "Host"]),
    module(
      "Machine",
      [
        "Options", "Security", "Devices", "Virtio", "Net", "Block", "PCI", "KVM", "Translator",
        "Chardev", "Cluster",
        "DistIRQ", "CPU",
        "DeviceModel", "Jobs",
        "Shm",
        "QAPI",
        "JSON", "Host",
      ]),
    module(
      "Devices",
      ["Block", "PCI", "Chardev", "DistIRQ", "DeviceModel", "Shm", "QAPI", "JSON", "Host"]),
    module("Net", ["QAPI", "JSON", "Host"]),
    module("Virtio", ["Net", "Block", "PCI", "DeviceModel", "Shm", "QAPI", "Host"]),
    module("PCI", ["DeviceModel"]),
    module("KVM", ["CPU", "DeviceModel", "Shm", "Host", "CKVM", "CLinux"]),
    module("Translator", ["CPU", "DeviceModel", "Shm", "Host", "CX86"], settings: hotPath),
    module("Chardev", ["QAPI", "JSON", "Host", "CLinux"]),
    module("Security", ["DeviceModel", "QAPI", "JSON", "Host"]),
    module("DistIRQ", ["CPU", "DeviceModel"]),
    module("CPU", ["DeviceModel", "Shm", "CX86"]),
    module("DeviceModel", ["Shm", "QAPI", "JSON", "Host"]),
    module("Block", ["QAPI", "JSON", "Host"]),
    module("Jobs", ["QAPI", "Host"]),
    module("Shm", ["Cluster", "Host", "CLinux", "CX86"], settings: hotPath),
    module("Cluster", ["Host"], settings: hotPath),
    module("QAPI", ["JSON"], plugins: ["GenerateQAPI"]),
    module("JSON", ["CJansson"]),
    // Linked statically: few runs need it, all would pay for loading it.
    module(
      "Host", ["CLinux", "CEdit", "CSeccomp", "CGnuTLS", "CSlirp"],
      linking: [.linkedLibrary(":libseccomp.a")]
    ),

    // C: headers and a few lines each.
    .systemLibrary(
      name: "CJansson", path: "Sources/Shims/CJansson", pkgConfig: "jansson",
      providers: [.apt(["libjansson-dev"])]),
    .systemLibrary(
      name: "CSeccomp", path: "Sources/Shims/CSeccomp", providers: [.apt(["libseccomp-dev"])]),
    shim("CLinux"),
    shim("CEdit"),  // libedit: only its header is needed here (libedit-dev)
    shim("CGnuTLS"),  // loaded when first used: only its headers are needed here (libgnutls28-dev)
    shim("CSlirp"),  // loaded when first used: only its headers are needed here (libslirp-dev)
    shim("CKVM"),
    shim("CX86"),

    // Measurements.
    .executableTarget(
      name: "InterpreterBenchmark",
      dependencies: ["Guests", "Translator", "CPU", "DeviceModel", "Shm"],
      path: "Benchmarks/interpreter",
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    .executableTarget(
      name: "DecoderBenchmark", dependencies: ["Translator", "CX86"], path: "Benchmarks/decoder",
      exclude: ["kernel-text.py"],
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),

    // Tests.
    .target(
      name: "COracle", path: "Tests/COracle", exclude: ["README.md"],
      cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-O2"])]),
    .target(
      name: "Oracle",
      dependencies: ["COracle", "Translator", "CPU", "DeviceModel", "Shm", "Host"],
      path: "Tests/Oracle", exclude: ["README.md"],
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    .executableTarget(
      name: "cpu-oracle", dependencies: ["Oracle"], path: "Tests/OracleTool",
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    .target(
      name: "Support",
      dependencies: [
        "Block", "DeviceModel", "Shm", "CPU", "DistIRQ", "Chardev", "QAPI", "JSON", "Host",
      ],
      path: "Tests/Support",
      exclude: ["README.md", "validate-schemas.py", "qmp-client.py", "read-dump.py", "kvm-host"],
      swiftSettings: strict),
    .target(
      name: "Guests", dependencies: ["CPU", "DeviceModel", "Shm", "Host"], path: "Tests/Guests",
      exclude: ["README.md"], swiftSettings: strict),
    .executableTarget(
      name: "kvm-selftest",
      dependencies: ["KVMNodes", "Guests", "KVM", "Translator", "CPU", "Shm"],
      path: "Tests/KVMSelfTest", swiftSettings: strict),
    .target(
      name: "KVMNodes",
      dependencies: ["Guests", "KVM", "Cluster", "CPU", "DeviceModel", "Shm", "Host"],
      path: "Tests/KVMNodes",
      swiftSettings: [
        .swiftLanguageMode(.v6), .enableUpcomingFeature("InternalImportsByDefault"),
        .enableUpcomingFeature("MemberImportVisibility"),
      ]),
    .executableTarget(
      name: "benchmark-exit",
      dependencies: ["Support", "KVM", "CPU", "DeviceModel", "Shm", "Host"],
      path: "Benchmarks/exit", exclude: ["run", "README.md"], swiftSettings: strict),
    .target(
      name: "ClusterBenchmarks", dependencies: ["Cluster", "Host"],
      path: "Benchmarks/cluster/common",
      swiftSettings: [
        .swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
      ]),
    .executableTarget(
      name: "benchmark-pages", dependencies: ["ClusterBenchmarks", "Shm", "Cluster", "Host"],
      path: "Benchmarks/cluster/pages",
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    .executableTarget(
      name: "benchmark-revoke",
      dependencies: ["Guests", "Translator", "CPU", "DeviceModel", "Shm", "Host"],
      path: "Benchmarks/cluster/revoke",
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    .executableTarget(
      name: "benchmark-kvm-pages",
      dependencies: [
        "ClusterBenchmarks", "Guests", "KVM", "Cluster", "CPU", "DeviceModel", "Shm", "Host",
      ],
      path: "Benchmarks/cluster/kvm",
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    .executableTarget(
      name: "benchmark-links", dependencies: ["ClusterBenchmarks", "Cluster", "Host"],
      path: "Benchmarks/cluster/links",
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility")]),
    tests("HostTests", ["Host"]),
    tests("JSONTests", ["JSON"]),
    tests("QAPITests", ["QAPI", "JSON"]),
    tests("OptionsTests", ["Options", "Cluster", "QAPI", "JSON", "Host"]),
    tests("BlockTests", ["Block", "QAPI", "JSON", "Host"]),
    tests("JobsTests", ["Jobs", "QAPI", "Host"]),
    tests("ClusterTests", ["Cluster", "Host"]),
    tests("ShmTests", ["Shm", "Cluster", "Host"], exclude: ["Models"]),
    tests("DeviceModelTests", ["DeviceModel", "Shm", "QAPI", "JSON", "Host"]),
    tests("DistIRQTests", ["DistIRQ", "CPU", "DeviceModel"]),
    tests("NetTests", ["Net", "QAPI", "JSON", "Host"]),
    tests("VirtioTests", ["Net", "QAPI", "Virtio", "Block", "PCI", "DeviceModel", "Shm", "Host"]),
    tests(
      "DevicesTests",
      ["Devices", "Block", "PCI", "DistIRQ", "DeviceModel", "Chardev", "Shm", "Host"]),
    tests("ChardevTests", ["Chardev", "QAPI", "Host"]),
    tests("SecurityTests", ["Security", "DeviceModel", "QAPI", "JSON", "Host"]),
    tests("CPUTests", ["CPU"]),
    tests(
      "TranslatorTests",
      [
        "Translator", "Cluster", "Oracle", "cpu-oracle", "COracle", "Guests", "CPU", "DeviceModel",
        "Shm", "Host", "CX86",
      ]),
    tests(
      "KVMTests",
      ["KVM", "KVMNodes", "Guests", "kvm-selftest", "CPU", "DeviceModel", "Shm", "Host"]),
    tests(
      "MachineTests",
      [
        "Machine", "Options", "Devices", "Block", "DistIRQ", "CPU", "DeviceModel", "Shm", "Chardev",
        "Jobs", "Cluster", "Translator", "Net", "Guests",
        "QAPI", "JSON", "Host",
      ]),
    tests(
      "MonitorTests",
      [
        "Monitor", "Cluster", "Machine", "Options", "Block", "Chardev", "CPU", "DeviceModel", "Shm",
        "QAPI",
        "JSON", "Host",
      ]),
    tests("ShellTests", ["goliath-shell", "QAPI", "JSON", "Host"]),
    tests("ImgTests", ["goliath-img", "JSON", "Host"], exclude: ["malformed.py", "scenes"]),
    tests("ProjectTests", []),
    tests(
      "EndToEnd", ["goliath", "goliath-shell", "JSON", "Host"],
      exclude: [
        "debian.py", "diskload.py", "faults.py", "kvm-cluster.sh", "kvm-debian.sh", "kvm-disks.sh",
        "kvm-firmware.sh", "libvirt.py", "lifecycle.py", "monitor.py", "optical.py", "pattern.c",
        "pressure.c",
        "secure-monitor.py", "terminal.py", "wire.py", "boots",
      ]),
  ]
)

// The fuzzers (Tests/Fuzz/run): one more program, and modules that tell it which of their code has run.
if Context.environment["GOLIATH_FUZZ"] != nil {
  let coverage: SwiftSetting = .unsafeFlags(["-sanitize=fuzzer"])
  for target in package.targets {
    if ["JSON", "QAPI", "Options", "Chardev", "Block", "Monitor", "Cluster"].contains(target.name) {
      target.swiftSettings?.append(coverage)
    }
    // It runs during the build, with a module that wants to tell somebody.
    if target.name == "SchemaCompiler" { target.dependencies.append("FuzzCoverage") }
  }
  package.targets += [
    .target(name: "FuzzCoverage", path: "Tests/FuzzCoverage"),
    .executableTarget(
      name: "monitor-fuzzer",
      dependencies: [
        "Monitor", "Options", "Chardev", "Block", "Cluster", "CPU", "QAPI", "JSON", "Host",
      ],
      path: "Tests/Fuzz", exclude: ["README.md", "run", "seeds.py"],
      swiftSettings: [
        .swiftLanguageMode(.v6), .enableUpcomingFeature("MemberImportVisibility"), coverage,
        .unsafeFlags(["-parse-as-library"]),
      ], linkerSettings: [.unsafeFlags(["-sanitize=fuzzer", "-use-ld=lld"])]),
  ]
}
