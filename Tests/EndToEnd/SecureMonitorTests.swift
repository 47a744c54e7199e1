import Glibc
import Host
import JSON
import Support
import Testing

/// Monitors over TLS and websockets, and the objects behind them.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Certificates.shared != nil))
struct SecureMonitorTests {
  private func folder(_ name: String) throws -> String {
    try #require(Certificates.shared).path(name)
  }

  /// The port of a listening device, as `query-chardev` shows it.
  private func port(_ label: String, _ client: QMPClient) throws -> String {
    let list = try client.run("query-chardev", "{}")["return"]?.arrayValue ?? []
    let name = list.first { $0["label"]?.stringValue == label }?["filename"]?.stringValue ?? ""
    let parts = name.split(separator: ":")
    return try #require(parts.last).split(separator: ",").first.map(String.init) ?? ""
  }

  @Test func qmpRunsOverTLSAndInsideAWebsocket() throws {
    let python = try #require(Process.find("python3"))
    let path = try folder("good")
    let ours = try Goliath([
      "-machine", "none", "-nodefaults", "-display", "none", "-object",
      "tls-creds-x509,id=tls,dir=\(path),endpoint=server", "-object",
      "authz-list,id=list,rules.0.match=*CN=joe*,rules.0.policy=allow,rules.0.format=glob",
      "-chardev",
      "socket,id=a,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=tls,tls-authz=list",
      "-mon", "chardev=a,mode=control", "-chardev",
      "socket,id=b,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=tls,websocket=on", "-mon",
      "chardev=b,mode=control",
    ])
    let own = try ours.connect()
    let script = (Checkout.root + "/Tests/EndToEnd/secure-monitor.py")
    let result = try Process.output(
      [python, script, path, port("a", own), port("b", own)], seconds: 120)
    #expect(result.status == 0, "\(result.text)")
    #expect(result.text.contains("the goodbye is returned"))
  }

  /// Objects that can or cannot be made, and what is then read of them.
  private func requests() throws -> [(String, String)] {
    let all = try #require(Certificates.shared).folder
    var list: [(String, String)] = []
    func add(_ type: String, _ rest: String) {
      let comma = rest.isEmpty ? "" : ", "
      list.append(
        ("object-add", "{\"qom-type\": \"\(type)\", \"id\": \"o\(list.count)\"\(comma)\(rest)}"))
    }
    let iv = "\"iv\": \"YWJjZGVmZ2hpamtsbW5vcA==\""
    list.append(
      ("object-add", #"{"qom-type":"secret","id":"k","data":"0123456789abcdef0123456789abcdef"}"#))
    list.append(("object-add", #"{"qom-type":"secret","id":"pw","data":"sesame"}"#))
    for rest in [
      "", #""data": "a", "file": "b""#, #""file": "/nonexistent""#, #""file": "/tmp""#,
      #""data": "@@", "format": "base64""#, #""data": "YWJj", "format": "base64""#,
      #""data": "YW\nJj", "format": "base64""#, #""data": "a", "loaded": true"#,
      #""data": "a", "format": "zz""#, #""data": "YWJj", "keyid": "nope""#,
      #""data": "YWJj", "keyid": "pw", "format": "base64""#,
      #""data": "YWJj", "keyid": "k", "format": "base64""#,
      #""data": "YWJj", "keyid": "k", "format": "base64", "iv": "AAAA""#,
      #""data": "YWJj", "keyid": "k", "format": "base64", "iv": "@""#,
      #""data": "YWJj", "keyid": "k", "format": "base64", "# + iv,
      #""data": "YQ2rLe6zr8PYh3DCZtmuNg==", "keyid": "k", "format": "base64", "# + iv,
      #""data": "AAAAAAAAAAAAAAAAAAAAAA==", "keyid": "k", "format": "base64", "# + iv,
      #""data": "", "keyid": "k", "format": "base64", "# + iv, #""nope": 1"#,
    ] { add("secret", rest) }
    add("secret_keyring", "")
    add("secret_keyring", "\"serial\": 1")
    for name in [
      "good", "mixed", "expired", "encrypted", "nocertificate", "revoked", "psk", "none",
    ] {
      for side in ["server", "client"] {
        add("tls-creds-x509", "\"dir\": \"\(all)/\(name)\", \"endpoint\": \"\(side)\"")
        add(
          "tls-creds-x509",
          "\"dir\": \"\(all)/\(name)\", \"endpoint\": \"\(side)\", \"sanity-check\": false")
      }
    }
    add("tls-creds-x509", "")
    for password in ["pw", "k", "nope"] {
      add(
        "tls-creds-x509",
        "\"dir\": \"\(all)/encrypted\", \"endpoint\": \"server\", \"passwordid\": \"\(password)\"")
    }
    for rest in [
      "", "\"dir\": \"\(all)/psk\"", "\"dir\": \"\(all)/psk\", \"endpoint\": \"server\"",
      "\"dir\": \"\(all)/psk\", \"username\": \"joe\"",
      "\"dir\": \"\(all)/psk\", \"username\": \"joe\", \"endpoint\": \"server\"",
      "\"dir\": \"\(all)/good\", \"endpoint\": \"server\"", "\"endpoint\": \"zz\"",
    ] { add("tls-creds-psk", rest) }
    add("tls-creds-anon", "\"endpoint\": \"server\"")
    add("authz-simple", "")
    add("authz-simple", "\"identity\": \"joe\"")
    add("authz-list", #""rules": [{"match": "x"}]"#)
    list.append(
      (
        "object-add",
        #"{"qom-type":"authz-list","id":"l","rules":[{"match":"x","policy":"allow","format":"glob"}]}"#
      ))
    list.append(
      ("object-add", #"{"qom-type":"tls-creds-anon","id":"server","endpoint":"server"}"#))
    list.append(("object-add", #"{"qom-type":"tls-creds-anon","id":"client"}"#))
    for object in ["k", "server", "l"] {
      list.append(("qom-list", "{\"path\": \"/objects/\(object)\"}"))
    }
    for (object, property) in [
      ("l", "rules"), ("l", "policy"), ("k", "data"), ("k", "format"), ("k", "file"),
      ("server", "endpoint"), ("server", "verify-peer"), ("server", "dir"), ("server", "loaded"),
    ] {
      list.append(
        ("qom-get", "{\"path\": \"/objects/\(object)\", \"property\": \"\(property)\"}"))
    }
    list.append(("qom-set", #"{"path": "/objects/l", "property": "policy", "value": "allow"}"#))
    list.append(("qom-get", #"{"path": "/objects/l", "property": "policy"}"#))
    list.append(("qom-set", #"{"path": "/objects/k", "property": "data", "value": "x"}"#))
    list.append(("qom-get", #"{"path": "/objects/k", "property": "data"}"#))
    list.append(("qom-set", #"{"path": "/objects/k", "property": "iv", "value": 1}"#))
    list.append(("qom-set", #"{"path": "/objects/server", "property": "dir", "value": "x"}"#))
    list.append(("qom-set", #"{"path": "/objects/k", "property": "loaded", "value": false}"#))
    func socket(_ rest: String, _ address: String = "inet") -> String {
      let data =
        address == "inet" ? #"{"host": "127.0.0.1", "port": "0"}"# : #"{"path": "/tmp/nope"}"#
      return """
        {"id": "c", "backend": {"type": "socket", "data": {"addr": {"type": "\(address)", "data": \(data)}, \(rest)}}}
        """
    }
    for arguments in [
      socket(#""tls-creds": "nope", "wait": false"#), socket(#""tls-creds": "k", "wait": false"#),
      socket(#""tls-creds": "client", "wait": false"#),
      socket(#""tls-creds": "server", "server": false"#),
      socket(#""tls-authz": "l", "wait": false"#),
      socket(#""tls-creds": "server", "wait": false"#, "unix"),
      socket(#""websocket": true, "server": false"#),
      socket(#""tls-creds": "nope", "websocket": true, "server": false"#),
    ] { list.append(("chardev-add", arguments)) }
    for id in ["k", "server", "l", "nope"] { list.append(("object-del", "{\"id\": \"\(id)\"}")) }
    return list
  }

  @Test func objectsAreMadeAndRefusedAsQEMUDoes() throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("SKIPPED: comparison of objects: qemu-system-x86_64 is not installed")
      return
    }
    let machine = ["-machine", "none", "-nodefaults", "-display", "none"]
    let ours = try Goliath(machine)
    let path = ours.folder + "/qemu"
    let theirs = try Process([qemu] + machine + ["-qmp", "unix:\(path),server=on,wait=off"])
    defer { theirs.kill(signal: SIGKILL) }
    let own = try ours.connect()
    let peer = try QMPClient(path: path)
    for (command, arguments) in try requests() {
      let got = try own.run(command, arguments)
      let expected = try peer.run(command, arguments)
      #expect(got == expected, "\(command) \(arguments)")
    }
  }
}
