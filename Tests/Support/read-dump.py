#!/usr/bin/env python3
"""Reads a memory dump (ELF core, or kdump in flattened form) without our code, for tests.

  read-dump.py FILE OUT     writes guest-physical memory to OUT (sparse, address = offset; pages that the dump
                            lacks stay holes) and prints a JSON object about the dump
"""
import json
import struct
import sys
import zlib


def notes(data):
    found = []
    at = 0
    while at + 12 <= len(data):
        name, size, kind = struct.unpack_from("<III", data, at)
        at += 12
        text = data[at:at + name].rstrip(b"\0").decode()
        at += (name + 3) & ~3
        found.append([text, kind, data[at:at + size]])
        at += (size + 3) & ~3
    return found


def describe(found):
    result = []
    for name, kind, data in found:
        entry = {"name": name, "type": kind, "size": len(data)}
        if name == "CORE" and len(data) == 336:
            entry["pid"] = struct.unpack_from("<I", data, 32)[0]
            registers = struct.unpack_from("<27Q", data, 112)
            entry["rip"], entry["rsp"], entry["rbx"] = registers[16], registers[19], registers[5]
        elif name == "CORE" and len(data) == 144:
            entry["pid"] = struct.unpack_from("<I", data, 24)[0]
            registers = struct.unpack_from("<17I", data, 72)
            entry["rip"], entry["rsp"], entry["rbx"] = registers[12], registers[15], registers[0]
        elif name == "QEMU":
            entry["version"], entry["length"] = struct.unpack_from("<II", data, 0)
            entry["rip"] = struct.unpack_from("<Q", data, 8 + 16 * 8)[0]
            entry["cr0"] = struct.unpack_from("<Q", data, 8 + 18 * 8 + 10 * 24)[0]
            entry["cr3"] = struct.unpack_from("<Q", data, 8 + 18 * 8 + 10 * 24 + 24)[0]
        result.append(entry)
    return result


def read_elf(data, out):
    header = struct.unpack_from("<HHIQQQIHHHHHH", data, 16)
    (kind, machine, _, _, phoff, shoff, _, ehsize, phsize, phnum, shsize, shnum, shstr) = header
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * shsize) for i in range(shnum)]
    if phnum == 0xFFFF:
        phnum = sections[0][7]
    loads = []
    note = b""
    for i in range(phnum):
        kind_, flags, offset, vaddr, paddr, filesz, memsz, align = struct.unpack_from(
            "<IIQQQQQQ", data, phoff + i * phsize)
        if kind_ == 4:
            note = data[offset:offset + filesz]
        elif kind_ == 1:
            assert offset + filesz <= len(data), "a segment beyond the end"
            loads.append([vaddr, paddr, memsz])
            out.seek(paddr)
            out.write(data[offset:offset + filesz])
    names = data[sections[shstr][4]:sections[shstr][4] + sections[shstr][5]]
    return {"format": "elf", "type": kind, "machine": machine, "loads": loads,
            "sections": [names[s[0]:].split(b"\0")[0].decode() for s in sections],
            "notes": describe(notes(note))}


def unflatten(data):
    assert data[:12] == b"makedumpfile"
    assert struct.unpack(">qq", data[16:32]) == (1, 1)
    pieces = {}
    at = 4096
    while True:
        offset, size = struct.unpack_from(">qq", data, at)
        at += 16
        if offset == -1:
            assert at == len(data), "bytes behind the end"
            break
        pieces[offset] = data[at:at + size]
        at += size
    whole = bytearray(max(o + len(p) for o, p in pieces.items()))
    for offset, piece in pieces.items():
        whole[offset:offset + len(piece)] = piece
    return bytes(whole)


def read_kdump(data, out):
    signature, version = struct.unpack_from("<8sI", data, 0)
    assert signature == b"KDUMP   " and version == 6
    machine = data[12 + 4 * 65:12 + 5 * 65].rstrip(b"\0").decode()
    status, block, sub, bitmaps, maxnr = struct.unpack_from("<IIIII", data, 424)
    cpus = struct.unpack_from("<I", data, 460)[0]
    fields = struct.unpack_from("<QIIQQQQQQQQQQQ", data, block)
    note_offset, note_size, max64 = fields[7], fields[8], fields[13]
    bitmap_at = block * (1 + sub)
    half = bitmaps * block // 2
    first, second = data[bitmap_at:bitmap_at + half], data[bitmap_at + half:bitmap_at + 2 * half]
    assert first == second, "the bitmaps differ"
    at = bitmap_at + 2 * half
    pages = zeros = 0
    for pfn in range(max64):
        if not second[pfn >> 3] >> (pfn & 7) & 1:
            continue
        offset, size, flags, page_flags = struct.unpack_from("<QIIQ", data, at)
        at += 24
        page = data[offset:offset + size]
        if flags == 1:
            page = zlib.decompress(page)
        else:
            assert flags == 0, flags
        assert len(page) == block, pfn
        if page == bytes(block):
            zeros += 1
        out.seek(pfn * block)
        out.write(page)
        pages += 1
    vmcoreinfo = data[fields[5]:fields[5] + fields[6]].decode() if fields[5] else None
    return {"format": "kdump", "machine": machine, "compression": status, "max_pfn": max64,
            "pages": pages, "zeros": zeros, "cpus": cpus, "vmcoreinfo": vmcoreinfo,
            "phys_base": fields[0],
            "notes": describe(notes(data[note_offset:note_offset + note_size]))}


def main():
    with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as out:
        data = source.read()
        about = read_elf(data, out) if data[:4] == b"\x7fELF" else read_kdump(unflatten(data), out)
    print(json.dumps(about))


main()
