#!/usr/bin/env python3
"""Makes the fuzzers' first inputs from the recorded conversation, the schemas and the command tables: seeds.py FOLDER"""
import hashlib, json, pathlib, struct, sys

root = pathlib.Path(__file__).resolve().parents[2]
folder = pathlib.Path(sys.argv[1])


def put(target, number, data):
    path = folder / target
    path.mkdir(parents=True, exist_ok=True)
    (path / f"seed-{number}").write_bytes(data if isinstance(data, bytes) else data.encode())


def requests(value):
    """Everything in the recording that looks like a request."""
    if isinstance(value, dict):
        if "execute" in value or "exec-oob" in value:
            yield {k: value[k] for k in ("execute", "exec-oob", "arguments", "id") if k in value}
        for member in value.values():
            yield from requests(member)
    elif isinstance(value, list):
        for member in value:
            yield from requests(member)


recorded = json.loads((root / "Tests/Golden/qemu-7.2-conversation.json").read_text())
lines = [json.dumps(r) for r in requests(recorded)]
schema = json.loads((root / "Tests/Golden/qmp-schema.json").read_text())
types = {entry["name"]: entry for entry in schema}


def sample(name, depth=0):
    """A value of a type of the API."""
    entry = types.get(name, {})
    kind = entry.get("meta-type")
    if kind == "builtin" or not entry:
        simple = {"str": "text", "int": 1, "number": 1.5, "bool": True, "any": {}, "null": None}
        return simple.get(name, 1)
    if kind == "enum":
        return entry["members"][0]["name"]
    if kind == "array":
        return [] if depth > 4 else [sample(entry["element-type"], depth + 1)]
    if kind == "alternate":
        return sample(entry["members"][0]["type"], depth + 1)
    if kind == "object" and depth <= 4:
        return {m["name"]: sample(m["type"], depth + 1) for m in entry["members"]}
    return {}


commands = [e for e in schema if e["meta-type"] == "command"]
lines += [json.dumps({"execute": c["name"], "arguments": sample(c["arg-type"])}) for c in commands]
for branch in types.get(next((c["arg-type"] for c in commands if c["name"] == "object-add"), ""), {}).get("variants", []):
    arguments = {"qom-type": branch["case"], "id": "x", **sample(branch["type"])}
    lines.append(json.dumps({"execute": "object-add", "arguments": arguments}))
for number, line in enumerate(lines):
    for target in ("framing", "parsing", "dispatch"):
        put(target, number, line)
odd = ['{"a": [1, 2.5e3, -0, true, null, "\\u00e9\\ud83d\\ude00"]}', "['a', 'b']", "{'execute': 'x', }", "[[[[[[]]]]]]",
       "\xff\xfe{", '"unended', "1 2 3", "nul", '{"a":1,"a":2}', "\x00\x01"]
for number, text in enumerate(odd):
    for target in ("framing", "parsing", "dispatch"):
        put(target, f"odd-{number}", text)

hmp = """info status\nstop\ncont\nx/4xw 0x1000\nxp/16i 0xfffffff0\nxp/2gx 0\np $pc + 4 * (2 - 1)\ninfo registers -a\nsum 0 16
sendkey ctrl-alt-f1 100\nmouse_move 1 -2\nprint/x 0xff & ~3\no/b 0x70 1\ni/w 0x60\nhelp info\ninfo mtree -f\ninfo lapic 0
qom-list /machine\nqom-set /machine x 1\nchardev-add socket,id=c,path=x\nobject_add secret,id=s,data=x\ngpa2hva 0x100
pmemsave 0 100 "x"\nset_link n on\nwatchdog_action reset\nlog in_asm\nsavevm a\ndevice_add x,id=y\nsystem_reset\nnmi\ncpu 0"""
for number, line in enumerate(hmp.split("\n")):
    put("hmp", number, line)
    put("editor", number, line + "\r")
put("hmp", "all", hmp)
for number, keys in enumerate(["\x1b[A\x1b[B\x1b[C\x1b[D\x1b[3~\x1b[1~\x1b[4~\x1bOH\x1bOF", "\x01\x04\x05\x08\x0b\x0c\x0e\x10\x15\x17\x7f", "inf\t\t\r", "a" * 5000]):
    put("editor", f"keys-{number}", "info status\r" + keys)

put("telnet", 0, b"info\xff\xfb\x01 status\xff\xff\xff\xf3\r\n\xff\xfa\x18\x00\xff\xf0")
put("telnet", 1, b"\xff")
key = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
put("websocket", "request", key)


def frame(opcode, data, fin=True, length=None):
    size = len(data) if length is None else length
    head = bytes([opcode | (0x80 if fin else 0)])
    head += bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size) if size < 65536 else b"\xff" + struct.pack(">Q", size)
    return head + b"\1\2\3\4" + bytes(b ^ (i % 4 + 1) for i, b in enumerate(data))


for number, data in enumerate([frame(2, b"data"), frame(2, b"a", False) + frame(9, b"ping") + frame(0, b"b"), frame(8, b"\3\xe8"),
                               frame(1, b"t"), frame(2, b"x" * 200), frame(2, b"y", length=1 << 40), frame(10, b"")]):
    put("websocket", number, data)

options = ["-machine pc,accel=tcg -cpu qemu64,+avx,-sse,level=4 -m 1G,slots=2,maxmem=4G -smp 2,cores=2", "-chardev socket,id=c,path=x,server=on,wait=off -mon c,mode=control",
           "-monitor telnet:127.0.0.1:1,server,nowait -serial mon:stdio -serial pty", "-object memory-backend-ram,id=m,size=64M -object secret,id=s,data=x,format=base64",
           "-object authz-list,id=a,rules.0.match=x,rules.0.policy=allow", "-device isa-debugcon,chardev=c -global driver=a,property=b,value=c -set chardev.c.path=y",
           "-rtc base=2020-01-01T00:00:00,clock=vm -boot order=cd,menu=on,splash-time=5 -name a,process=b -uuid 11111111-2222-3333-4444-555555555555",
           "-kernel a -initrd b -append c=d -no-reboot -action reboot=shutdown,panic=none -S -d in_asm,int -D x -sandbox on,obsolete=deny", "-qmp unix:x,server=on -pidfile p -daemonize -add-fd fd=3,set=1 -msg timestamp=on"]
for number, line in enumerate(options):
    put("options", number, "\n".join(line.split(" ")))


def counted(data):
    return struct.pack("<I", len(data)) + data


def hello(node, nodes, vcpus):
    return struct.pack("<HBBQQII", 0, node, nodes, 0, 42, 4, len(vcpus)) + struct.pack(f"<{len(vcpus)}I", *vcpus) + counted(b"goliath") + counted(b"goliath")


items = [(b"-m", b"4G"), (b"-smp", b"4")]
texts = b"".join(counted(name) + counted(value) for name, value in items)
put("frames", "hello", hello(1, 2, [2, 3]))
put("frames", "hello-long", hello(63, 64, [0, 1, 2, 3]))
put("frames", "config", counted(hashlib.sha256(texts).digest()) + struct.pack("<I", len(items)) + texts + counted(b"offer"))
for number, (kind, flags) in enumerate([(0x20, 0), (0x83, 4), (0x20, 3), (0x7F, 64), (0x10, 0)]):
    put("frames", f"header-{number}", struct.pack("<HBBHBBIIIIQ", 0x474C, 1, flags, kind, 1, 0, 4096, 7, 1, 0, 0x60))


def image(order, size, actions):
    """A small qcow2 image with one data cluster, behind the fuzzer's script."""
    cluster = 512
    head = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 9, size, 0, 1, 3 * cluster, cluster, 1, 0, 0, 0, 0, 0, order, 104)
    table = struct.pack(">Q", 2 * cluster)
    counts = b"\0\1" * 6 if order == 4 else b"\1" * 6
    l1, l2 = struct.pack(">Q", 1 << 63 | 4 * cluster), struct.pack(">QQ", 1 << 63 | 5 * cluster, 1)
    return b"\0" + bytes(actions).ljust(24, b"\0") + b"".join(part.ljust(cluster, b"\0") for part in (head, table, counts, l1, l2, b"data"))


put("image", "plain", image(4, 32768, range(16)))
put("image", "bytes", image(3, 32768, [2, 1, 9, 0, 2, 2, 10, 0, 11, 0, 5, 3, 6, 4, 8, 9, 12, 3, 14, 0x44]))
for number in range(32):
    script = bytes((number * 7 + index * 13) & 255 for index in range(24))
    for kind in range(4):
        put("image", f"made-{number}-{kind}", bytes([1]) + script + bytes([kind << 4 | number & 15, number * 5 & 127]) + script[:8] + bytes([target for target in range(number * 3)]))
