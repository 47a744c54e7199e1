// GnuTLS 3.7, loaded with dlopen when first asked for: a run without TLS pays neither start time nor memory for it.
//
// Sessions work in memory: what the peer sent goes in with goliath_tls_feed, what is for the peer comes out with
// goliath_tls_output. Numbers below zero are GnuTLS error codes (goliath_tls_text names them). No policy here.
#ifndef GOLIATH_CGNUTLS_H
#define GOLIATH_CGNUTLS_H
#include <stddef.h>
#include <stdint.h>

// Whether the library is there. Any thread.
int goliath_tls_is_available(void);
// What the library says about an error code. A constant text.
const char *goliath_tls_text(int code);

// Codes that callers tell apart.
#define GOLIATH_TLS_AGAIN (-28)
#define GOLIATH_TLS_INTERRUPTED (-52)
#define GOLIATH_TLS_REHANDSHAKE (-37)
#define GOLIATH_TLS_WARNING_ALERT (-16)
#define GOLIATH_TLS_FATAL_ALERT (-12)
#define GOLIATH_TLS_PREMATURE_END (-110)
#define GOLIATH_TLS_NOT_AVAILABLE (-56)
#define GOLIATH_TLS_NO_MEMORY (-25)

enum goliath_tls_kind { GOLIATH_TLS_X509 = 1, GOLIATH_TLS_PSK, GOLIATH_TLS_ANON };

// MARK: Credentials

typedef struct goliath_tls_credentials goliath_tls_credentials;
int goliath_tls_credentials_new(int kind, int is_server, goliath_tls_credentials **credentials);
// Sessions keep what they need of it: free it after them.
void goliath_tls_credentials_free(goliath_tls_credentials *credentials);
// Trusted authorities of a PEM file: how many, or an error.
int goliath_tls_credentials_trust(goliath_tls_credentials *credentials, const char *path);
int goliath_tls_credentials_key(goliath_tls_credentials *credentials, const char *certificate, const char *key,
                                const char *password);
int goliath_tls_credentials_revoked(goliath_tls_credentials *credentials, const char *path);
// Diffie-Hellman parameters: PKCS 3 in PEM, or well-known ones without a text.
int goliath_tls_credentials_dh(goliath_tls_credentials *credentials, const uint8_t *pem, size_t size);
// Server: the file of users and keys, which every handshake reads again.
int goliath_tls_credentials_psk_file(goliath_tls_credentials *credentials, const char *path);
// Client: a user and the key's digits.
int goliath_tls_credentials_psk_key(goliath_tls_credentials *credentials, const char *user, const char *digits,
                                    size_t count);

// MARK: Certificates in files

typedef struct goliath_certificates goliath_certificates;
// The certificates of a PEM text, at most `limit`; `limit` 1 reads the first alone.
int goliath_certificates_read(const uint8_t *pem, size_t size, unsigned limit, goliath_certificates **list);
void goliath_certificates_free(goliath_certificates *list);
unsigned goliath_certificates_count(const goliath_certificates *list);
// Seconds since 1970; -1 when not there.
int64_t goliath_certificate_activation(const goliath_certificates *list, unsigned index);
int64_t goliath_certificate_expiration(const goliath_certificates *list, unsigned index);
// Basic constraints: 1 a CA, 0 none, or an error.
int goliath_certificate_is_ca(const goliath_certificates *list, unsigned index);
// Key usage bits, or an error.
int goliath_certificate_usage(const goliath_certificates *list, unsigned index, unsigned *usage, unsigned *critical);
#define GOLIATH_USAGE_DIGITAL_SIGNATURE 128u
#define GOLIATH_USAGE_KEY_ENCIPHERMENT 32u
#define GOLIATH_USAGE_SIGN_CERTIFICATES 4u
// The purpose of a number (an object identifier with its terminator), or an error.
int goliath_certificate_purpose(const goliath_certificates *list, unsigned index, unsigned number, char *text,
                                size_t *room, unsigned *critical);
// Verifies the first certificate against authorities; status bits as GOLIATH_CERT_*.
int goliath_certificates_verify(const goliath_certificates *list, const goliath_certificates *authorities,
                                unsigned *status);
#define GOLIATH_CERT_INVALID 2u
#define GOLIATH_CERT_REVOKED 32u
#define GOLIATH_CERT_SIGNER_NOT_FOUND 64u
#define GOLIATH_CERT_INSECURE_ALGORITHM 256u

// MARK: Sessions

typedef struct goliath_tls goliath_tls;
int goliath_tls_new(goliath_tls_credentials *credentials, const char *priority, int asks_for_certificate, goliath_tls **session);
void goliath_tls_free(goliath_tls *session);
// Gives bytes of the peer to the session, which reads them from the caller's memory during the next calls until the
// next feed; how many are left is goliath_tls_unread. `ended`: no more will come.
void goliath_tls_feed(goliath_tls *session, const uint8_t *bytes, size_t count, int ended);
size_t goliath_tls_unread(const goliath_tls *session);
// What is for the peer, valid until the next call with the session.
const uint8_t *goliath_tls_output(const goliath_tls *session, size_t *count);
void goliath_tls_output_taken(goliath_tls *session);
// 0 when done.
int goliath_tls_handshake(goliath_tls *session);
int64_t goliath_tls_read(goliath_tls *session, uint8_t *buffer, size_t room);
int64_t goliath_tls_write(goliath_tls *session, const uint8_t *bytes, size_t count);
int goliath_tls_bye(goliath_tls *session);
int goliath_tls_alert(goliath_tls *session, int code);
#define GOLIATH_ALERT_BAD_CERTIFICATE 42
#define GOLIATH_ALERT_EXPIRED 45
#define GOLIATH_ALERT_REVOKED 44
#define GOLIATH_ALERT_UNKNOWN_CA 48
#define GOLIATH_ALERT_ACCESS_DENIED 49
#define GOLIATH_ALERT_CERTIFICATE_REQUIRED 116
// Sends the alert that fits an error code of the library.
int goliath_tls_alert_for(goliath_tls *session, int error);
// The alert that came last.
const char *goliath_tls_received_alert(const goliath_tls *session);
// Verifies the peer's certificates; status bits as GOLIATH_CERT_*.
int goliath_tls_verify(goliath_tls *session, unsigned *status);
// The peer's certificates, the peer's own first: kind, times and chain checks work on them.
int goliath_tls_peer_certificates(goliath_tls *session, goliath_certificates **list);
// A distinguished name (RFC 4514) with its terminator.
int goliath_certificate_name(const goliath_certificates *list, unsigned index, char *text, size_t *room);
int goliath_certificate_matches(const goliath_certificates *list, unsigned index, const char *host);
// A server's PSK client: its user name, or null.
const char *goliath_tls_psk_user(const goliath_tls *session);

// MARK: Cipher

// AES-256-CBC, in place; `count` is a multiple of 16.
int goliath_aes256_cbc_decrypt(const uint8_t key[32], const uint8_t iv[16], uint8_t *bytes, size_t count);
#endif
