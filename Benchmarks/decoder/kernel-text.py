#!/usr/bin/env python3
"""Unpacks the ELF file in a Debian kernel: kernel-text.py /boot/vmlinuz-VERSION OUTPUT

The payload is in LZ4's legacy frame format, its place in the boot protocol's header (Linux, Documentation/arch/x86/boot.rst).
"""
import struct
import sys


def block(data):
    """One LZ4 block."""
    out = bytearray()
    at = 0

    def length(first):
        nonlocal at
        total = first
        if first == 15:
            while True:
                total += data[at]
                at += 1
                if data[at - 1] != 255:
                    break
        return total

    while at < len(data):
        token = data[at]
        at += 1
        literals = length(token >> 4)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            break
        distance = data[at] | data[at + 1] << 8
        at += 2
        count = length(token & 15) + 4
        start = len(out) - distance
        if distance >= count:
            out += out[start : start + count]
        else:
            piece = bytes(out[start:])
            out += (piece * (count // distance + 1))[:count]
    return bytes(out)


image = open(sys.argv[1], "rb").read()
setup = (image[0x1F1] or 4) + 1
offset, size = struct.unpack_from("<II", image, 0x248)
payload = image[setup * 512 + offset :][:size]
if payload[:4] != b"\x02\x21\x4c\x18":
    sys.exit("the kernel's payload is not LZ4")
at = 4
with open(sys.argv[2], "wb") as output:
    while at + 4 < len(payload):
        (size,) = struct.unpack_from("<I", payload, at)
        # The last four bytes are the unpacked size.
        if at + 4 + size > len(payload):
            break
        output.write(block(payload[at + 4 : at + 4 + size]))
        at += 4 + size
