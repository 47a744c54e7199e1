#!/usr/bin/env python3
"""Talks QMP to a running Goliath over TLS, alone and inside a websocket: secure-monitor.py FOLDER PORT WEBSOCKET-PORT

FOLDER has ca-cert.pem, client-cert.pem, client-key.pem. Prints one line for each thing that held; ends with status 1 at the first that did not."""
import base64, hashlib, json, os, socket, ssl, struct, sys

folder, port, websocket_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def context(certificate=True):
    made = ssl.create_default_context(cafile=f"{folder}/ca-cert.pem")
    if certificate:
        made.load_cert_chain(f"{folder}/client-cert.pem", f"{folder}/client-key.pem")
    return made


def connect(number, made=None):
    raw = socket.create_connection(("127.0.0.1", number), timeout=30)
    return (made or context()).wrap_socket(raw, server_hostname="localhost")


def check(condition, what):
    print(("ok: " if condition else "FAILED: ") + what, flush=True)
    if not condition:
        sys.exit(1)


class Frames:
    """The client's side of a websocket."""

    def __init__(self, stream):
        self.stream, self.buffer = stream, b""
        key = base64.b64encode(os.urandom(16)).decode()
        stream.sendall(
            f"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n\r\n".encode())
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        proof = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        check(f"Sec-WebSocket-Accept: {base64.b64encode(proof).decode()}".encode() in head, "the server's proof")
        check(b"Sec-WebSocket-Protocol: binary" in head, "the protocol is agreed on")

    def fill(self):
        got = self.stream.recv(65536)
        if not got:
            raise EOFError
        self.buffer += got

    def take(self, count):
        while len(self.buffer) < count:
            self.fill()
        result, self.buffer = self.buffer[:count], self.buffer[count:]
        return result

    def send(self, data):
        mask = os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        self.stream.sendall(b"\x82" + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def receive(self):
        head = self.take(2)
        size = head[1]
        if size >= 126:
            size = int.from_bytes(self.take(2 if size == 126 else 8), "big")
        return head[0], self.take(size)


class Lines:
    def __init__(self, receive):
        self.receive, self.text = receive, b""

    def next(self):
        while b"\n" not in self.text:
            self.text += self.receive()
        line, self.text = self.text.split(b"\n", 1)
        return json.loads(line)


stream = connect(port)
lines = Lines(lambda: stream.recv(65536))
check("QMP" in lines.next(), f"a greeting over {stream.version()}")
stream.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-status","id":1}')
check(lines.next() == {"return": {}}, "negotiation")
check(lines.next()["id"] == 1, "a request")
stream.sendall(b'{"execute":"query-qmp-schema"}')
check(len(lines.next()["return"]) > 50, "a long reply")
big = json.dumps({"execute": "query-status", "id": "x" * 300000}).encode()
stream.sendall(big)
check(len(lines.next()["id"]) == 300000, "a long request")

try:
    stranger = connect(port, context(certificate=False))
    stranger.sendall(b"{}")
    check(stranger.recv(100) == b"", "without a certificate nobody gets in")
except ssl.SSLError as error:
    check("ALERT" in str(error).upper(), f"without a certificate nobody gets in: {error.reason}")
except (ConnectionResetError, BrokenPipeError):
    check(True, "without a certificate nobody gets in")

frames = Frames(connect(websocket_port))
inside = Lines(lambda: frames.receive()[1])
check("QMP" in inside.next(), "a greeting in a websocket in TLS")
frames.send(b'{"execute":"qmp_capabilities"}')
check(inside.next() == {"return": {}}, "negotiation in it")
for number in range(20):
    frames.send(json.dumps({"execute": "query-name", "id": number}).encode())
check([inside.next()["id"] for _ in range(20)] == list(range(20)), "requests in it are answered in order")
frames.stream.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
check(frames.receive() == (0x88, b"\x03\xe8peer requested close"), "the goodbye is returned")

rubbish = socket.create_connection(("127.0.0.1", port), timeout=30)
rubbish.sendall(os.urandom(20000))
rubbish.close()
stream.sendall(b'{"execute":"query-status"}')
check("return" in lines.next(), "rubbish on another connection disturbs nobody")
stream.close()
