import Host

/// Keys, certificates and folders of TLS credentials for tests, made by certtool and psktool in a folder of their own.
package struct Certificates: Sendable {
  /// The folder; below it are the folders of credentials, by name.
  package let folder: String

  /// The ones that all tests of a process share; nil when the tools are not installed.
  package static let shared: Certificates? = try? Certificates()

  /// A folder of credentials: `good`, `otherca` (another authority's), `mixed` (certificates of one, trust in another), `expired`, `otherhost`, `nocertificate` (client without
  /// one), `encrypted` (key with the password `sesame`), `revoked` (with a list that revokes the client of `good`), `psk`, `otherpsk`
  /// (another key for the same user).
  package func path(_ name: String) -> String { "\(folder)/\(name)" }

  private init() throws(SystemError) {
    guard let certtool = Process.find("certtool"), let psktool = Process.find("psktool") else {
      print("SKIPPED: TLS with other programs' credentials: gnutls-bin is not installed")
      throw SystemError(call: "certtool", code: 2)
    }
    folder = Goliath.temporaryFolder()
    let script = """
      set -e
      cd \(folder)
      key() { \(certtool) --generate-privkey --key-type ecdsa --outfile $1; }
      for k in ca.key ca2.key s.key c.key; do key $k; done
      ca() { printf '%s\\n' 'cn = "Test CA"' ca cert_signing_key crl_signing_key 'expiration_days = 7000' >t
        \(certtool) --generate-self-signed --load-privkey $1.key --template t --outfile $1.pem; }
      ca ca; ca ca2
      leaf() { out=$1 ca=$2 key=$3; shift 3; printf '%s\\n' "$@" signing_key >t
        \(certtool) --generate-certificate --load-ca-privkey $ca.key --load-ca-certificate $ca.pem \\
          --load-privkey $key --template t --outfile $out; }
      host='ip_address = "127.0.0.1"' long='expiration_days = 7000'
      past='activation_date = "2001-01-01 00:00:00"' gone='expiration_date = "2002-01-01 00:00:00"'
      leaf server.pem ca s.key 'cn = "localhost"' 'dns_name = "localhost"' "$host" tls_www_server "$long"
      leaf server-expired.pem ca s.key 'cn = "localhost"' 'dns_name = "localhost"' tls_www_server "$past" "$gone"
      leaf server-otherhost.pem ca s.key 'cn = "other"' 'dns_name = "other.example"' tls_www_server "$long"
      leaf server-otherca.pem ca2 s.key 'cn = "localhost"' 'dns_name = "localhost"' tls_www_server "$long"
      leaf client.pem ca c.key 'cn = "joe"' 'organization = "Goliath"' 'serial = 7' tls_www_client "$long"
      leaf client-expired.pem ca c.key 'cn = "joe"' tls_www_client "$past" "$gone"
      leaf client-otherca.pem ca2 c.key 'cn = "joe"' tls_www_client "$long"
      set_() { mkdir $1; cp $2 $1/ca-cert.pem; cp $3 $1/server-cert.pem; cp s.key $1/server-key.pem
        cp $4 $1/client-cert.pem; cp c.key $1/client-key.pem; }
      set_ good ca.pem server.pem client.pem
      set_ otherca ca2.pem server-otherca.pem client-otherca.pem
      set_ mixed ca2.pem server.pem client.pem
      set_ expired ca.pem server-expired.pem client-expired.pem
      set_ otherhost ca.pem server-otherhost.pem client.pem
      set_ nocertificate ca.pem server.pem client.pem; rm nocertificate/client-*
      set_ encrypted ca.pem server.pem client.pem
      \(certtool) --to-p8 --load-privkey s.key --password sesame --outfile encrypted/server-key.pem
      set_ revoked ca.pem server.pem client.pem
      printf '%s\\n' 'crl_next_update = 7000' 'crl_number = 1' >t
      \(certtool) --generate-crl --load-ca-privkey ca.key --load-ca-certificate ca.pem \\
        --load-certificate client.pem --template t --outfile revoked/ca-crl.pem
      for d in psk otherpsk; do mkdir $d; \(psktool) -u joe -p $d/keys.psk; done
      for d in psk otherpsk; do chmod 644 $d/keys.psk; done
      """
    let result = try Process.output(["/bin/bash", "-c", script], seconds: 120)
    guard result.status == 0 else {
      print("the certificates cannot be made: \(result.text)")
      throw SystemError(call: "certtool", code: 5)
    }
  }
}
