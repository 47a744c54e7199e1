#!/usr/bin/env python3
"""The rules of QMP on the wire, one by one, on a raw socket: what goes in, and the bytes that must come back.

    wire.py PROGRAM [PEER]

Each case runs on a connection of its own. Where a case has an expectation, PROGRAM's bytes are held against it; with PEER
(qemu-system-x86_64) all bytes are held against the peer's too, but for time stamps and the name of the program.
Prints the cases that differ; exit status 1 when there are any.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time

NAME = b'{"execute":"query-name","id":"END"}'
END = b'"id": "END"}\r\n'
OOB = b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}'
PLAIN = b'{"execute":"qmp_capabilities"}'


def error(text, kind="GenericError", ident=None):
    prefix = b'{"id": ' + ident + b", " if ident is not None else b"{"
    return prefix + b'"error": {"class": "' + kind.encode() + b'", "desc": "' + text.encode() + b'"}}\r\n'


def parse(text):
    return error("JSON parse error, " + text)


def expecting():
    return error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")


EMPTY = b'{"return": {}}\r\n'
# name, negotiation, input, expected output before the sentinel's reply (None: only the peer says)
cases = [
    # Greeting and negotiation
    ("other commands wait for negotiation", None, b'{"execute":"query-status"}', expecting()),
    ("unknown commands wait for negotiation", None, b'{"execute":"nope"}', expecting()),
    ("malformed before negotiation", None, b'{"execute":1}', error("QMP input member 'execute' must be a string")),
    ("unknown capability", None, b'{"execute":"qmp_capabilities","arguments":{"enable":["bogus"]}}',
     error("Parameter 'null' does not accept value 'bogus'")),
    ("capabilities no list", None, b'{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}',
     error("Invalid parameter type for 'enable', expected: array")),
    ("capability no string", None, b'{"execute":"qmp_capabilities","arguments":{"enable":[1]}}',
     error("Invalid parameter type for 'enable[0]', expected: string")),
    ("failed attempt may be repeated", None,
     b'{"execute":"qmp_capabilities","arguments":{"enable":[1]}}{"execute":"query-name"}' + PLAIN,
     error("Invalid parameter type for 'enable[0]', expected: string") + expecting() + EMPTY),
    ("second negotiation", PLAIN, PLAIN,
     error("Capabilities negotiation is already complete, command ignored", "CommandNotFound")),
    ("arguments of a second negotiation are looked at first", PLAIN,
     b'{"execute":"qmp_capabilities","arguments":{"enable":1}}',
     error("Invalid parameter type for 'enable', expected: array")),
    # Requests
    *[(f"not an object: {text}", PLAIN, text.encode() + b" ", error("QMP input must be a JSON object"))
      for text in ('[]', '"x"', '1', 'true', 'null', '-1.5e3')],
    ("execute no string", PLAIN, b'{"execute":[],"id":1}',
     error("QMP input member 'execute' must be a string", ident=b"1")),
    ("exec-oob is off", PLAIN, b'{"exec-oob":"query-name"}', error("QMP input member 'exec-oob' is unexpected")),
    ("both kinds of execute", OOB, b'{"execute":"query-name","exec-oob":"query-name"}', None),
    ("oob of a command that cannot", OOB, b'{"exec-oob":"query-status","id":[1]}',
     error("The command query-status does not support OOB", ident=b"[1]")),
    ("oob of an unknown command", OOB, b'{"exec-oob":"nope"}',
     error("The command nope has not been found", "CommandNotFound")),
    ("arguments no object", PLAIN, b'{"execute":"query-name","arguments":null}',
     error("QMP input member 'arguments' must be an object")),
    ("another member", PLAIN, b'{"execute":"query-name","extra":1}', error("QMP input member 'extra' is unexpected")),
    ("no execute", PLAIN, b'{"arguments":{}}', error("QMP input lacks member 'execute'")),
    ("empty object", PLAIN, b'{}', error("QMP input lacks member 'execute'")),
    ("unknown command", PLAIN, b'{"execute":"Query-name"}',
     error("The command Query-name has not been found", "CommandNotFound")),
    ("missing argument", PLAIN, b'{"execute":"human-monitor-command"}',
     error("Parameter 'command-line' is missing")),
    ("wrong type", PLAIN, b'{"execute":"human-monitor-command","arguments":{"command-line":1}}',
     error("Invalid parameter type for 'command-line', expected: string")),
    ("float for integer", PLAIN,
     b'{"execute":"human-monitor-command","arguments":{"command-line":"","cpu-index":1E2}}',
     error("Invalid parameter type for 'cpu-index', expected: integer")),
    ("unknown argument", PLAIN, b'{"execute":"query-name","arguments":{"x":1}}',
     error("Parameter 'x' is unexpected")),
    ("unknown value", PLAIN, b'{"execute":"set-action","arguments":{"reboot":"xx"}}',
     error("Parameter 'reboot' does not accept value 'xx'")),
    ("nested missing", PLAIN, b'{"execute":"chardev-add","arguments":{"id":"a","backend":{"type":"null"}}}', None),
    ("nested unknown", PLAIN,
     b'{"execute":"chardev-add","arguments":{"id":"a","backend":{"type":"null","data":{"zz":1}}}}', None),
    # Replies
    *[(f"id {text}", PLAIN, b'{"execute":"query-status","id":' + text.encode() + b"}", None)
      for text in ('null', 'true', '1', '-0', '0.1', '1E2', '18446744073709551615', '18446744073709551616',
                   '-9223372036854775808', '-9223372036854775809', '1e400', '"a\\u0000b"', '"\\ud83d\\ude00"', '"é\\/\\u007f"',
                   '"\\b\\f\\n\\r\\t\\u0001"', '[]', '{}', '[[],{},[1,"x"]]', "'single'", "'it\\'s'",
                   '{"return":1,"id":2,"error":3,"timestamp":4,"event":5,"data":6,"a":7,"b":8}')],
    ("id in an error", PLAIN, b'{"execute":"nope","id":{"b":1,"a":[null]}}', None),
    ("id null in an error", PLAIN, b'{"execute":"nope","id":null}',
     error("The command nope has not been found", "CommandNotFound", b"null")),
    # JSON input
    ("blanks and pieces", PLAIN, b'\r\n\t {\r"execute" \t:\n"query-name"\r}\n{"execute":"query-name"}', None),
    *[(f"grammar: {text}", PLAIN, text.encode() + b" ", None)
      for text in ('{"a":1,}', '[1,]', '{"a":}', ']', ',', '}', '{"a" 1}', '{"a":1 "b":2}', '[1 2]', '{1:2}', '{execute:1}',
                   'nul', '{"a":1,"a":2}', '{"x":{"a":1,"a":2}}', '"\\x"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"',
                   '"\\uffff"', '"\\ufdd0"', '{"a":@}', '[@]', '+1', '.5', '1.', '01', '1.e3', '-', '--1', '%', 'NULL', 'NaN', '/**/',
                   '{"a":[1,2}', '[}', '{]', ':', '[1,,2]', '{,}', '0e1', '1-2', '[1.5e+3,1E-2]', "{'a':'b\"c'}", '"\\u12"')],
    ("raw control character", PLAIN, b'"a\x01b" ', None),
    ("newline in a string", PLAIN, b'{"execute":"quer\n', None),
    ("escape resynchronises", PLAIN, b'{"execute":"quer\x1b', None),
    ("0xFF resynchronises", PLAIN, b'{"execute":"quer\xff', parse("stray '\\\"quer\\uFFFD'")),
    ("NUL is stray", PLAIN, b'\0', None),
    ("byte order mark", PLAIN, b'\xef\xbb\xbf{"execute":"query-name"}', None),
    ("bad UTF-8", PLAIN, b'{"execute":"\xc3\x28"}', None),
    ("surrogate in UTF-8", PLAIN, b'{"execute":"\xed\xa0\x80"}', None),
    ("noncharacter in UTF-8", PLAIN, b'{"execute":"\xef\xbf\xbf"}', None),
    ("above U+10FFFF", PLAIN, b'{"execute":"\xf4\x90\x80\x80"}', None),
    ("1024 levels", PLAIN, b"[" * 1024 + b"]" * 1024, error("QMP input must be a JSON object")),
    ("1025 levels", PLAIN, b"[" * 1025 + b"]" * 1025, None),
    ("1025 levels of objects", PLAIN, b'{"a":' * 1025 + b"1" + b"}" * 1025, None),
    # Order
    ("requests are answered in order", PLAIN,
     b"".join(b'{"execute":"query-name","id":%d}' % number for number in range(100)),
     b"".join(b'{"return": {}, "id": %d}\r\n' % number for number in range(100))),
    ("errors keep their place", OOB, b'{"execute":"query-name","id":1}@{"execute":"query-name","id":2}', None),
    # Events
    ("events come before the reply", PLAIN, b'{"execute":"cont"}{"execute":"stop"}{"execute":"stop"}', None),
]


class Program:
    def __init__(self, path, folder, pretty=False):
        self.name = os.path.join(folder, os.path.basename(path))
        option = "-qmp-pretty" if pretty else "-qmp"
        self.process = subprocess.Popen(
            [path, "-machine", "none", "-nodefaults", "-display", "none", "-S",
             option, f"unix:{self.name},server=on,wait=off"])

    def connect(self):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(30)
        for _ in range(2000):
            try:
                stream.connect(self.name)
                return stream
            except OSError:
                time.sleep(0.005)
        raise SystemExit(f"{self.name}: no connection")

    def close(self):
        self.process.kill()
        self.process.wait()


def read_until(stream, end):
    held = b""
    while end not in held:
        piece = stream.recv(1 << 16)
        if not piece:
            break
        held += piece
    return held


def run(program, negotiation, text):
    with program.connect() as stream:
        greeting = read_until(stream, b"\r\n")
        if negotiation:
            stream.sendall(negotiation)
            assert read_until(stream, b"\r\n") == EMPTY
        stream.sendall(text)
        # Whatever state the text left: one stray error at most, then the sentinel.
        stream.sendall(b"\xff" + (NAME if negotiation or PLAIN in text else PLAIN[:-1] + b',"id":"END"}'))
        output = read_until(stream, END)
    return normal(greeting), normal(output)


def normal(text):
    text = re.sub(rb'"seconds": \d+, "microseconds": \d+', b'"seconds": S, "microseconds": U', text)
    return re.sub(rb'"package": "[^"]*"', b'"package": P', text)


def half_close(program):
    """What was sent before the client shut down its writing side is answered; then the server closes."""
    with program.connect() as stream:
        read_until(stream, b"\r\n")
        stream.sendall(PLAIN + b"".join(b'{"execute":"query-name","id":%d}' % number for number in range(500)))
        stream.shutdown(socket.SHUT_WR)
        return read_until(stream, b"\0never")


def pretty(program):
    with program.connect() as stream:
        greeting = read_until(stream, b"\r\n}\r\n")
        stream.sendall(PLAIN + b'{"execute":"query-status","id":{"a":[],"b":{}}}' + b'{"execute":"nope","id":1}')
        output = b""
        while output.count(b"\r\n}\r\n") < 3:
            output += stream.recv(1 << 16)
    return normal(greeting).replace(b'"package": P', b"") + normal(output)


def main():
    programs = sys.argv[1:]
    faults = 0

    def differ(case, what, got, wanted):
        nonlocal faults
        faults += 1
        print(f"{case}: {what}\n  got    {got!r}\n  wanted {wanted!r}")

    with tempfile.TemporaryDirectory() as folder:
        running = [Program(path, folder) for path in programs]
        try:
            for name, negotiation, text, expected in cases:
                outputs = [run(program, negotiation, text) for program in running]
                if expected is not None and not outputs[0][1].startswith(expected):
                    differ(name, "against the rule", outputs[0][1], expected)
                for other in outputs[1:]:
                    if outputs[0] != other:
                        differ(name, "against the peer", outputs[0], other)
            outputs = [half_close(program) for program in running]
            if outputs[0].count(b"\r\n") != 501:
                differ("half close", "requests sent before are answered", outputs[0][-200:], "501 replies")
            for other in outputs[1:]:
                if outputs[0] != other:
                    differ("half close", "against the peer", outputs[0][-200:], other[-200:])
        finally:
            for program in running:
                program.close()
        running = [Program(path, folder, pretty=True) for path in programs]
        try:
            outputs = [pretty(program) for program in running]
            for other in outputs[1:]:
                if outputs[0] != other:
                    differ("pretty", "against the peer", outputs[0], other)
        finally:
            for program in running:
                program.close()
    print(f"{len(cases) + 2} cases, {faults} faults")
    sys.exit(1 if faults else 0)


main()
