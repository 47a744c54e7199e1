"""Images to measure with: mixed data, and qcow2 files with many clusters in order or scattered, made without any tool."""

import json
import os
import random
import struct
import sys
from array import array

COPIED = 1 << 63


def mixed(path, size, seed=1):
    """A raw file: 40 % zeros (holes), 40 % random bytes, 20 % text, in stretches of 64 KiB to 1 MiB."""
    source = random.Random(seed)
    words = [bytes(source.choices(b"etaoinshrdlu", k=source.randint(2, 9))) for _ in range(2000)]
    text = b" ".join(source.choices(words, k=400_000))
    with open(path, "wb") as file:
        file.truncate(size)
        offset = 0
        while offset < size:
            length = min(size - offset, source.randint(1, 16) * 65536)
            kind = source.random()
            if kind < 0.4:
                data = source.randbytes(length)
            elif kind < 0.6:
                start = source.randrange(len(text) - length)
                data = text[start:start + length]
            else:
                data = b""
            if data:
                os.pwrite(file.fileno(), data, offset)
            offset += length


def qcow2(path, size, guest_clusters, scattered, seed=1, bits=16, stored=False):
    """A qcow2 file of `size` bytes in which `guest_clusters` (ascending) are mapped; their data is holes.

    `scattered`: in random order of the file; otherwise in the guest's order. `stored`: the data is allocated in the file system.
    """
    CLUSTER = 1 << bits
    REFCOUNTS, L2_ENTRIES = CLUSTER // 2, CLUSTER // 8
    source = random.Random(seed)

    def place(file, cluster, entries):
        row = array("Q", entries)
        row.byteswap()
        file.seek(cluster * CLUSTER)
        row.tofile(file)

    l1_size = -(-size // (CLUSTER * L2_ENTRIES))
    l1_clusters = -(-l1_size * 8 // CLUSTER)
    tables = sorted({cluster // L2_ENTRIES for cluster in guest_clusters})
    count = len(guest_clusters)
    fixed = 1 + l1_clusters + len(tables) + count
    blocks = -(-fixed // REFCOUNTS)
    while True:
        table_clusters = -(-blocks * 8 // CLUSTER)
        total = fixed + blocks + table_clusters
        if -(-total // REFCOUNTS) <= blocks:
            break
        blocks += 1
    refcount_table = 1
    first_block = refcount_table + table_clusters
    l1 = first_block + blocks
    first_table = l1 + l1_clusters
    first_data = first_table + len(tables)
    hosts = list(range(first_data, first_data + count))
    if scattered:
        source.shuffle(hosts)
    with open(path, "wb") as file:
        header = struct.pack(
            ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, bits, size, 0, l1_size, l1 * CLUSTER,
            refcount_table * CLUSTER, table_clusters, 0, 0, 0, 0, 0, 4, 104)
        file.write(header)
        place(file, refcount_table, [(first_block + index) * CLUSTER for index in range(blocks)])
        ones = b"\x00\x01" * total
        file.seek(first_block * CLUSTER)
        file.write(ones)
        entries = [0] * l1_size
        for position, table in enumerate(tables):
            entries[table] = (first_table + position) * CLUSTER | COPIED
        place(file, l1, entries)
        rows = {table: array("Q", bytes(CLUSTER)) for table in tables}
        for cluster, host in zip(guest_clusters, hosts):
            rows[cluster // L2_ENTRIES][cluster % L2_ENTRIES] = host * CLUSTER | COPIED
        for position, table in enumerate(tables):
            place(file, first_table + position, rows[table])
        file.truncate((first_data + count) * CLUSTER)
        if stored:
            os.posix_fallocate(file.fileno(), first_data * CLUSTER, count * CLUSTER)
    return {"l1": l1 * CLUSTER}

def scattered_100g(path, count=200_000):
    """100 GiB with `count` clusters, no two neighbours, in random order of the file."""
    source = random.Random(7)
    half = (100 << 30) // 65536 // 2
    clusters = [2 * number for number in sorted(source.sample(range(half), count))]
    return qcow2(path, 100 << 30, clusters, True)


def full_100g(path):
    """100 GiB, every cluster mapped, in order."""
    return qcow2(path, 100 << 30, range((100 << 30) // 65536), False)


def alternating(path, count=200_000):
    """Clusters of 4 KiB, every other one stored."""
    return qcow2(path, 2 * count * 4096, range(0, 2 * count, 2), False, bits=12, stored=True)


def lose_table(path, places):
    """Takes the first level-2 table out of the map: its clusters are leaked."""
    with open(path, "r+b") as file:
        file.seek(places["l1"])
        row = array("Q")
        row.fromfile(file, 200)
        position = next(index for index, entry in enumerate(row) if entry)
        file.seek(places["l1"] + 8 * position)
        file.write(bytes(8))


if __name__ == "__main__":
    # Made by a process of its own: what the measured programs inherit stays small.
    name, target, *rest = sys.argv[1:]
    made = {"mixed": mixed, "scattered": scattered_100g, "full": full_100g, "alternating": alternating}[name](
        target, *map(int, rest))
    print(json.dumps(made))
