// See CGnuTLS.h. The library's headers give the types; its functions are looked up by name.
#define _GNU_SOURCE 1
#include "CGnuTLS.h"
#include <dlfcn.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS(X)                                                                                                   \
  X(gnutls_strerror) X(gnutls_init) X(gnutls_deinit) X(gnutls_handshake) X(gnutls_bye) X(gnutls_record_recv)            \
  X(gnutls_record_send) X(gnutls_alert_send) X(gnutls_alert_send_appropriate) X(gnutls_alert_get)                      \
  X(gnutls_alert_get_name) X(gnutls_priority_set_direct) X(gnutls_credentials_set) X(gnutls_transport_set_ptr)         \
  X(gnutls_transport_set_pull_function) X(gnutls_transport_set_push_function) X(gnutls_transport_set_errno)            \
  X(gnutls_transport_set_pull_timeout_function) X(gnutls_handshake_set_timeout)                                        \
  X(gnutls_handshake_set_max_packet_length) X(gnutls_certificate_server_set_request)                                   \
  X(gnutls_certificate_allocate_credentials) X(gnutls_certificate_free_credentials)                                    \
  X(gnutls_certificate_set_x509_trust_file) X(gnutls_certificate_set_x509_key_file2)                                   \
  X(gnutls_certificate_set_x509_crl_file) X(gnutls_certificate_set_dh_params)                                          \
  X(gnutls_certificate_set_known_dh_params) X(gnutls_certificate_verify_peers2) X(gnutls_certificate_get_peers)        \
  X(gnutls_psk_allocate_server_credentials) X(gnutls_psk_free_server_credentials)                                      \
  X(gnutls_psk_allocate_client_credentials) X(gnutls_psk_free_client_credentials)                                      \
  X(gnutls_psk_set_server_credentials_file) X(gnutls_psk_set_client_credentials)                                       \
  X(gnutls_psk_set_server_dh_params) X(gnutls_psk_set_server_known_dh_params) X(gnutls_psk_server_get_username)        \
  X(gnutls_anon_allocate_server_credentials) X(gnutls_anon_free_server_credentials)                                    \
  X(gnutls_anon_allocate_client_credentials) X(gnutls_anon_free_client_credentials)                                    \
  X(gnutls_anon_set_server_dh_params) X(gnutls_anon_set_server_known_dh_params) X(gnutls_dh_params_init)               \
  X(gnutls_dh_params_deinit) X(gnutls_dh_params_import_pkcs3) X(gnutls_x509_crt_init) X(gnutls_x509_crt_deinit)        \
  X(gnutls_x509_crt_import) X(gnutls_x509_crt_list_import) X(gnutls_x509_crt_get_activation_time)                      \
  X(gnutls_x509_crt_get_expiration_time) X(gnutls_x509_crt_get_basic_constraints) X(gnutls_x509_crt_get_key_usage)     \
  X(gnutls_x509_crt_get_key_purpose_oid) X(gnutls_x509_crt_list_verify) X(gnutls_x509_crt_get_dn)                      \
  X(gnutls_x509_crt_check_hostname) X(gnutls_cipher_init) X(gnutls_cipher_decrypt) X(gnutls_cipher_deinit)

static struct {
#define X(name) __typeof__(&name) name;
  FUNCTIONS(X)
#undef X
  int is_complete;
} tls;

_Static_assert(GOLIATH_TLS_AGAIN == GNUTLS_E_AGAIN && GOLIATH_TLS_INTERRUPTED == GNUTLS_E_INTERRUPTED, "as the library");
_Static_assert(GOLIATH_TLS_REHANDSHAKE == GNUTLS_E_REHANDSHAKE, "as the library");
_Static_assert(GOLIATH_TLS_WARNING_ALERT == GNUTLS_E_WARNING_ALERT_RECEIVED, "as the library");
_Static_assert(GOLIATH_TLS_FATAL_ALERT == GNUTLS_E_FATAL_ALERT_RECEIVED, "as the library");
_Static_assert(GOLIATH_TLS_PREMATURE_END == GNUTLS_E_PREMATURE_TERMINATION, "as the library");
_Static_assert(GOLIATH_TLS_NOT_AVAILABLE == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE, "as the library");
_Static_assert(GOLIATH_TLS_NO_MEMORY == GNUTLS_E_MEMORY_ERROR, "as the library");
_Static_assert(GOLIATH_CERT_INVALID == GNUTLS_CERT_INVALID && GOLIATH_CERT_REVOKED == GNUTLS_CERT_REVOKED &&
                   GOLIATH_CERT_SIGNER_NOT_FOUND == GNUTLS_CERT_SIGNER_NOT_FOUND &&
                   GOLIATH_CERT_INSECURE_ALGORITHM == GNUTLS_CERT_INSECURE_ALGORITHM,
               "as the library");
_Static_assert(GOLIATH_ALERT_BAD_CERTIFICATE == GNUTLS_A_BAD_CERTIFICATE &&
                   GOLIATH_ALERT_EXPIRED == GNUTLS_A_CERTIFICATE_EXPIRED &&
                   GOLIATH_ALERT_REVOKED == GNUTLS_A_CERTIFICATE_REVOKED &&
                   GOLIATH_ALERT_UNKNOWN_CA == GNUTLS_A_UNKNOWN_CA && GOLIATH_ALERT_ACCESS_DENIED == GNUTLS_A_ACCESS_DENIED &&
                   GOLIATH_ALERT_CERTIFICATE_REQUIRED == GNUTLS_A_CERTIFICATE_REQUIRED,
               "as the library");

static void load(void) {
  void *library = dlopen("libgnutls.so.30", RTLD_NOW | RTLD_LOCAL);
  if (!library) return;
  int complete = 1;
#define X(name) *(void **)&tls.name = dlsym(library, #name), complete &= tls.name != 0;
  FUNCTIONS(X)
#undef X
  tls.is_complete = complete;
}

int goliath_tls_is_available(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  return tls.is_complete;
}

const char *goliath_tls_text(int code) { return goliath_tls_is_available() ? tls.gnutls_strerror(code) : "no library"; }

// MARK: Credentials

struct goliath_tls_credentials {
  int kind, is_server;
  union {
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_anon_server_credentials_t anon_server;
    gnutls_anon_client_credentials_t anon_client;
    void *any;
  } of;
  gnutls_dh_params_t dh;
};

int goliath_tls_credentials_new(int kind, int is_server, goliath_tls_credentials **credentials) {
  *credentials = 0;
  if (!goliath_tls_is_available()) return GNUTLS_E_UNIMPLEMENTED_FEATURE;
  goliath_tls_credentials *made = calloc(1, sizeof *made);
  if (!made) return GNUTLS_E_MEMORY_ERROR;
  made->kind = kind;
  made->is_server = is_server;
  int result;
  if (kind == GOLIATH_TLS_X509) result = tls.gnutls_certificate_allocate_credentials(&made->of.x509);
  else if (kind == GOLIATH_TLS_PSK)
    result = is_server ? tls.gnutls_psk_allocate_server_credentials(&made->of.psk_server)
                       : tls.gnutls_psk_allocate_client_credentials(&made->of.psk_client);
  else
    result = is_server ? tls.gnutls_anon_allocate_server_credentials(&made->of.anon_server)
                       : tls.gnutls_anon_allocate_client_credentials(&made->of.anon_client);
  if (result < 0) {
    free(made);
    return result;
  }
  *credentials = made;
  return 0;
}

void goliath_tls_credentials_free(goliath_tls_credentials *credentials) {
  if (!credentials) return;
  if (credentials->kind == GOLIATH_TLS_X509) tls.gnutls_certificate_free_credentials(credentials->of.x509);
  else if (credentials->kind == GOLIATH_TLS_PSK) {
    if (credentials->is_server) tls.gnutls_psk_free_server_credentials(credentials->of.psk_server);
    else tls.gnutls_psk_free_client_credentials(credentials->of.psk_client);
  } else if (credentials->is_server) tls.gnutls_anon_free_server_credentials(credentials->of.anon_server);
  else tls.gnutls_anon_free_client_credentials(credentials->of.anon_client);
  if (credentials->dh) tls.gnutls_dh_params_deinit(credentials->dh);
  free(credentials);
}

int goliath_tls_credentials_trust(goliath_tls_credentials *credentials, const char *path) {
  return tls.gnutls_certificate_set_x509_trust_file(credentials->of.x509, path, GNUTLS_X509_FMT_PEM);
}

int goliath_tls_credentials_key(goliath_tls_credentials *credentials, const char *certificate, const char *key,
                                const char *password) {
  int result = tls.gnutls_certificate_set_x509_key_file2(credentials->of.x509, certificate, key, GNUTLS_X509_FMT_PEM,
                                                         password, 0);
  return result < 0 ? result : 0;
}

int goliath_tls_credentials_revoked(goliath_tls_credentials *credentials, const char *path) {
  return tls.gnutls_certificate_set_x509_crl_file(credentials->of.x509, path, GNUTLS_X509_FMT_PEM);
}

int goliath_tls_credentials_dh(goliath_tls_credentials *credentials, const uint8_t *pem, size_t size) {
  if (!credentials->is_server) return 0;
  if (!pem) {
    if (credentials->kind == GOLIATH_TLS_X509)
      return tls.gnutls_certificate_set_known_dh_params(credentials->of.x509, GNUTLS_SEC_PARAM_MEDIUM);
    if (credentials->kind == GOLIATH_TLS_PSK)
      return tls.gnutls_psk_set_server_known_dh_params(credentials->of.psk_server, GNUTLS_SEC_PARAM_MEDIUM);
    return tls.gnutls_anon_set_server_known_dh_params(credentials->of.anon_server, GNUTLS_SEC_PARAM_MEDIUM);
  }
  if (size > UINT32_MAX) return GNUTLS_E_LARGE_PACKET;
  int result = tls.gnutls_dh_params_init(&credentials->dh);
  if (result < 0) return result;
  gnutls_datum_t text = {(unsigned char *)(uintptr_t)pem, (unsigned)size};
  result = tls.gnutls_dh_params_import_pkcs3(credentials->dh, &text, GNUTLS_X509_FMT_PEM);
  if (result < 0) return result;
  if (credentials->kind == GOLIATH_TLS_X509)
    tls.gnutls_certificate_set_dh_params(credentials->of.x509, credentials->dh);
  else if (credentials->kind == GOLIATH_TLS_PSK)
    tls.gnutls_psk_set_server_dh_params(credentials->of.psk_server, credentials->dh);
  else tls.gnutls_anon_set_server_dh_params(credentials->of.anon_server, credentials->dh);
  return 0;
}

int goliath_tls_credentials_psk_file(goliath_tls_credentials *credentials, const char *path) {
  return tls.gnutls_psk_set_server_credentials_file(credentials->of.psk_server, path);
}

int goliath_tls_credentials_psk_key(goliath_tls_credentials *credentials, const char *user, const char *digits,
                                    size_t count) {
  if (count > UINT32_MAX) return GNUTLS_E_LARGE_PACKET;
  gnutls_datum_t key = {(unsigned char *)(uintptr_t)digits, (unsigned)count};
  return tls.gnutls_psk_set_client_credentials(credentials->of.psk_client, user, &key, GNUTLS_PSK_KEY_HEX);
}

// MARK: Certificates

struct goliath_certificates {
  unsigned count;
  gnutls_x509_crt_t of[];
};

int goliath_certificates_read(const uint8_t *pem, size_t size, unsigned limit, goliath_certificates **list) {
  *list = 0;
  if (!goliath_tls_is_available()) return GNUTLS_E_UNIMPLEMENTED_FEATURE;
  if (size > UINT32_MAX || limit > 1024) return GNUTLS_E_LARGE_PACKET;
  goliath_certificates *made = calloc(1, sizeof *made + limit * sizeof made->of[0]);
  if (!made) return GNUTLS_E_MEMORY_ERROR;
  gnutls_datum_t text = {(unsigned char *)(uintptr_t)pem, (unsigned)size};
  int result;
  if (limit == 1) {
    result = tls.gnutls_x509_crt_init(&made->of[0]);
    if (result >= 0) {
      made->count = 1;
      result = tls.gnutls_x509_crt_import(made->of[0], &text, GNUTLS_X509_FMT_PEM);
    }
  } else {
    unsigned count = limit;
    result = tls.gnutls_x509_crt_list_import(made->of, &count, &text, GNUTLS_X509_FMT_PEM, 0);
    if (result >= 0) made->count = count;
  }
  if (result < 0) {
    goliath_certificates_free(made);
    return result;
  }
  *list = made;
  return 0;
}

void goliath_certificates_free(goliath_certificates *list) {
  if (!list) return;
  for (unsigned i = 0; i < list->count; i++) tls.gnutls_x509_crt_deinit(list->of[i]);
  free(list);
}

unsigned goliath_certificates_count(const goliath_certificates *list) { return list->count; }

int64_t goliath_certificate_activation(const goliath_certificates *list, unsigned index) {
  return tls.gnutls_x509_crt_get_activation_time(list->of[index]);
}

int64_t goliath_certificate_expiration(const goliath_certificates *list, unsigned index) {
  return tls.gnutls_x509_crt_get_expiration_time(list->of[index]);
}

int goliath_certificate_is_ca(const goliath_certificates *list, unsigned index) {
  unsigned critical, ca = 0;
  int length, result = tls.gnutls_x509_crt_get_basic_constraints(list->of[index], &critical, &ca, &length);
  return result < 0 ? result : ca != 0;
}

int goliath_certificate_usage(const goliath_certificates *list, unsigned index, unsigned *usage, unsigned *critical) {
  return tls.gnutls_x509_crt_get_key_usage(list->of[index], usage, critical);
}

int goliath_certificate_purpose(const goliath_certificates *list, unsigned index, unsigned number, char *text,
                                size_t *room, unsigned *critical) {
  return tls.gnutls_x509_crt_get_key_purpose_oid(list->of[index], number, text, room, critical);
}

int goliath_certificates_verify(const goliath_certificates *list, const goliath_certificates *authorities,
                                unsigned *status) {
  return tls.gnutls_x509_crt_list_verify(list->of, (int)list->count, authorities->of, (int)authorities->count, 0, 0, 0,
                                         status);
}

int goliath_certificate_name(const goliath_certificates *list, unsigned index, char *text, size_t *room) {
  return tls.gnutls_x509_crt_get_dn(list->of[index], text, room);
}

int goliath_certificate_matches(const goliath_certificates *list, unsigned index, const char *host) {
  return tls.gnutls_x509_crt_check_hostname(list->of[index], host) != 0;
}

// MARK: Sessions

struct goliath_tls {
  gnutls_session_t session;
  const uint8_t *input;
  size_t input_left;
  int input_ended;
  uint8_t *output;
  size_t output_count, output_room;
};

static ssize_t pull(gnutls_transport_ptr_t pointer, void *buffer, size_t room) {
  goliath_tls *session = pointer;
  if (!session->input_left) {
    if (session->input_ended) return 0;
    tls.gnutls_transport_set_errno(session->session, EAGAIN);
    return -1;
  }
  size_t count = session->input_left < room ? session->input_left : room;
  memcpy(buffer, session->input, count);
  session->input += count;
  session->input_left -= count;
  return (ssize_t)count;
}

static int pull_timeout(gnutls_transport_ptr_t pointer, unsigned milliseconds) {
  (void)milliseconds;
  goliath_tls *session = pointer;
  return session->input_left || session->input_ended;
}

static ssize_t push(gnutls_transport_ptr_t pointer, const void *bytes, size_t count) {
  goliath_tls *session = pointer;
  if (count > session->output_room - session->output_count) {
    size_t room = session->output_room ? session->output_room : 1024;
    while (room - session->output_count < count) room *= 2;
    uint8_t *grown = realloc(session->output, room);
    if (!grown) {
      tls.gnutls_transport_set_errno(session->session, ENOMEM);
      return -1;
    }
    session->output = grown;
    session->output_room = room;
  }
  memcpy(session->output + session->output_count, bytes, count);
  session->output_count += count;
  return (ssize_t)count;
}

int goliath_tls_new(goliath_tls_credentials *credentials, const char *priority, int asks_for_certificate,
                    goliath_tls **session) {
  *session = 0;
  goliath_tls *made = calloc(1, sizeof *made);
  if (!made) return GNUTLS_E_MEMORY_ERROR;
  int result = tls.gnutls_init(&made->session, credentials->is_server ? GNUTLS_SERVER : GNUTLS_CLIENT);
  if (result < 0) {
    free(made);
    return result;
  }
  int type = credentials->kind == GOLIATH_TLS_X509  ? GNUTLS_CRD_CERTIFICATE
             : credentials->kind == GOLIATH_TLS_PSK ? GNUTLS_CRD_PSK
                                                    : GNUTLS_CRD_ANON;
  result = tls.gnutls_priority_set_direct(made->session, priority, 0);
  if (result >= 0) result = tls.gnutls_credentials_set(made->session, type, credentials->of.any);
  if (result < 0) {
    goliath_tls_free(made);
    return result;
  }
  if (credentials->is_server && credentials->kind == GOLIATH_TLS_X509)
    tls.gnutls_certificate_server_set_request(made->session,
                                              asks_for_certificate ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_IGNORE);
  tls.gnutls_handshake_set_timeout(made->session, 0);  // what it does not measure it need not be told
  tls.gnutls_handshake_set_max_packet_length(made->session, 128 * 1024);
  tls.gnutls_transport_set_ptr(made->session, made);
  tls.gnutls_transport_set_pull_function(made->session, pull);
  tls.gnutls_transport_set_pull_timeout_function(made->session, pull_timeout);
  tls.gnutls_transport_set_push_function(made->session, push);
  *session = made;
  return 0;
}

void goliath_tls_free(goliath_tls *session) {
  if (!session) return;
  tls.gnutls_deinit(session->session);
  free(session->output);
  free(session);
}

void goliath_tls_feed(goliath_tls *session, const uint8_t *bytes, size_t count, int ended) {
  session->input = bytes;
  session->input_left = count;
  session->input_ended = ended;
}

size_t goliath_tls_unread(const goliath_tls *session) { return session->input_left; }

const uint8_t *goliath_tls_output(const goliath_tls *session, size_t *count) {
  *count = session->output_count;
  return session->output;
}

void goliath_tls_output_taken(goliath_tls *session) {
  session->output_count = 0;
  if (session->output_room <= 64 * 1024) return;
  free(session->output);
  session->output = 0;
  session->output_room = 0;
}

int goliath_tls_handshake(goliath_tls *session) { return tls.gnutls_handshake(session->session); }

int64_t goliath_tls_read(goliath_tls *session, uint8_t *buffer, size_t room) {
  return tls.gnutls_record_recv(session->session, buffer, room);
}

int64_t goliath_tls_write(goliath_tls *session, const uint8_t *bytes, size_t count) {
  return tls.gnutls_record_send(session->session, bytes, count);
}

int goliath_tls_bye(goliath_tls *session) { return tls.gnutls_bye(session->session, GNUTLS_SHUT_WR); }

int goliath_tls_alert(goliath_tls *session, int code) {
  return tls.gnutls_alert_send(session->session, GNUTLS_AL_FATAL, (gnutls_alert_description_t)code);
}

int goliath_tls_alert_for(goliath_tls *session, int error) {
  return tls.gnutls_alert_send_appropriate(session->session, error);
}

const char *goliath_tls_received_alert(const goliath_tls *session) {
  return tls.gnutls_alert_get_name(tls.gnutls_alert_get(session->session));
}

int goliath_tls_verify(goliath_tls *session, unsigned *status) {
  return tls.gnutls_certificate_verify_peers2(session->session, status);
}

int goliath_tls_peer_certificates(goliath_tls *session, goliath_certificates **list) {
  *list = 0;
  unsigned count = 0;
  const gnutls_datum_t *raw = tls.gnutls_certificate_get_peers(session->session, &count);
  if (!raw || !count) return GNUTLS_E_NO_CERTIFICATE_FOUND;
  goliath_certificates *made = calloc(1, sizeof *made + count * sizeof made->of[0]);
  if (!made) return GNUTLS_E_MEMORY_ERROR;
  int result = 0;
  for (unsigned i = 0; i < count && result >= 0; i++) {
    result = tls.gnutls_x509_crt_init(&made->of[i]);
    if (result < 0) break;
    made->count = i + 1;
    result = tls.gnutls_x509_crt_import(made->of[i], &raw[i], GNUTLS_X509_FMT_DER);
  }
  if (result < 0) {
    goliath_certificates_free(made);
    return result;
  }
  *list = made;
  return 0;
}

const char *goliath_tls_psk_user(const goliath_tls *session) {
  return tls.gnutls_psk_server_get_username(session->session);
}

// MARK: Cipher

int goliath_aes256_cbc_decrypt(const uint8_t key[32], const uint8_t iv[16], uint8_t *bytes, size_t count) {
  if (!goliath_tls_is_available()) return GNUTLS_E_UNIMPLEMENTED_FEATURE;
  gnutls_datum_t key_datum = {(unsigned char *)(uintptr_t)key, 32}, iv_datum = {(unsigned char *)(uintptr_t)iv, 16};
  gnutls_cipher_hd_t cipher;
  int result = tls.gnutls_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_CBC, &key_datum, &iv_datum);
  if (result < 0) return result;
  if (count) result = tls.gnutls_cipher_decrypt(cipher, bytes, count);
  tls.gnutls_cipher_deinit(cipher);
  return result;
}
