"""Random changes of valid inputs, for benchmarks/fuzz.py: of bytes, tars, JSON and lines."""

import copy
import json
import math
import random
import struct
import tarfile
from typing import Any

# What readers trip over: limits of integers, other encodings, paths, markup, numbers that are none.
BYTES = (
    [
        b'',
        b'\0',
        b'\xff',
        b'\x80',
        b'\xed\xa0\x80',
        b'\xef\xbb\xbf',
        '\u202e'.encode(),
        b'\r',
        b'\n',
    ]
    + [
        b'\t',
        b' ',
        b'"',
        b'\\',
        b'{',
        b'}',
        b'[',
        b']',
        b',',
        b':',
        b'../',
        b'/',
        b'~',
        b'-1',
        b'0',
    ]
    + [
        b'1e999',
        b'NaN',
        b'-Infinity',
        b'null',
        b'9' * 30,
        b'$',
        b'|',
        b'<script>',
        b'://',
        b'[' * 3000,
    ]
    + [struct.pack('>I', n) for n in (0, 2**31 - 1, 2**31, 2**32 - 1)]
    + [struct.pack('<Q', n) for n in (2**31, 2**63 - 1, 2**63, 2**64 - 1)]
)
VALUES = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.5, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf, '', 'a', '0', '-1', 'true', '..', '/etc/passwd', 'a\0b', '\n'),
    *('\ud800', '\u202e', '$\\frac$', '|', '<b>', 'x' * 3000, [], {}, [[]], [None], {'': None}),
    *([1, 2], [1.0, 'a'], ['a', 'b', 'c'], {'a': 1}, {'a': {'a': {}}}, [0] * 100),
]
TAR_SIZES = (-1, -512, -(2**40), 0, 1, 511, 512, 2**20, 2**31, 2**33, 2**62, 2**63 - 512, 2**63 - 1)
TAR_TYPES = tuple(b'0\x00123456789LKSxgVNAZ'[i : i + 1] for i in range(20))


def mutate_bytes(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """A few changes of single bits, bytes, ranges and numbers."""
    data = bytearray(content)
    for _ in range(geometric(rng)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 600))))
        match rng.randrange(9):
            case 0 if end > start:
                data[start] ^= 1 << rng.randrange(8)
            case 1 if end > start:
                data[start:end] = rng.randbytes(end - start)
            case 2:
                value = rng.choice(BYTES)
                data[start : start + len(value)] = value
            case 3:
                data[start:start] = rng.choice(BYTES)
            case 4:
                del data[start:end]
            case 5:
                data[start:start] = data[start:end] * rng.choice((1, 1, 2, 50))
            case 6:
                del data[start:]
            case 7:
                other = rng.choice(seeds)
                place = rng.randrange(len(other) + 1)
                data[start:] = other[place:]
            case 8:
                data[start:end] = bytes(end - start)
    return bytes(data)


def geometric(rng: random.Random) -> int:
    """1, 2, 3, ... with probabilities 1/2, 1/4, 1/8, ..."""
    count = 1
    while rng.random() < 0.5:
        count += 1
    return count


def mutate_tar(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """Changes of bytes, or of fields of headers; most headers get a valid checksum again."""
    if rng.random() < 0.3:
        return (
            repair_tar(mutate_bytes(rng, content, seeds))
            if rng.random() < 0.7
            else (mutate_bytes(rng, content, seeds))
        )
    data = bytearray(content)
    for _ in range(geometric(rng)):
        places = header_places(data)
        if not places:
            break
        place = rng.choice(places)
        match rng.randrange(5):
            case 0:
                size = rng.choice(TAR_SIZES)
                data[place + 124 : place + 136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
            case 1:
                data[place + 156 : place + 157] = rng.choice(TAR_TYPES)
            case 2:
                name = rng.choice(BYTES)[:99] or b'..'
                data[place : place + len(name)] = name
            case 3:
                records = b''.join(rng.choice(PAX) for _ in range(geometric(rng)))
                info = tarfile.TarInfo('pax')
                info.size, info.type = len(records), rng.choice((b'x', b'g', b'L', b'K', b'S'))
                extra = info.tobuf(tarfile.GNU_FORMAT) + records + bytes(-len(records) % 512)
                data[place:place] = extra * rng.choice((1, 1, 1, 2, 30))
            case 4:
                field = rng.randrange(257)
                data[place + field] = rng.randrange(256)
    return repair_tar(bytes(data))


PAX = (
    *(b'28 size=9223372036854775000\n', b'14 size=-2048\n', b'10 size=1\n', b'11 path=..\n'),
    *(b'12 path=\xff\xfe\n', b'26 GNU.sparse.map=0,1,2,3\n', b'22 GNU.sparse.major=1\n'),
    *(b'22 GNU.sparse.minor=0\n', b'21 GNU.sparse.size=1\n', b'24 GNU.sparse.offset=1\n'),
    *(b'26 GNU.sparse.numbytes=1\n', b'29 GNU.sparse.realsize=99999\n', b'0 a=b\n', b'99 a=\n'),
    *(b'18 hdrcharset=BIN\n', b'21 hdrcharset=BINARY\n', b'14 mtime=1e99\n', b'1' * 3000),
)


def header_places(data: bytes | bytearray) -> list[int]:
    """Where headers begin: aligned blocks with the magic of a tar."""
    return [p for p in range(0, len(data) - 511, 512) if data[p + 257 : p + 262] == b'ustar']


def repair_tar(content: bytes) -> bytes:
    """The tar with valid checksums of its headers, so that their fields are read."""
    data = bytearray(content)
    for place in header_places(data):
        signed = tarfile.calc_chksums(bytes(data[place : place + 512]))[0]
        data[place + 148 : place + 156] = b'%06o\0 ' % signed
    return bytes(data)


def mutate_json(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """Values, keys and parts of JSON that are replaced, removed or moved; sometimes bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, content, seeds)
    tree: Any = [json.loads(content)]
    for _ in range(geometric(rng)):
        parents = [node for node in walk(tree) if len(node)]
        parent = rng.choice(parents)
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        match rng.randrange(4):
            case 0 | 1:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
            case 2 if isinstance(parent, dict):
                del parent[key]
            case 2:
                parent[key] = [parent[key]]
            case 3:
                other = rng.choice(parents)
                place = rng.choice(list(other) if isinstance(other, dict) else range(len(other)))
                parent[key] = copy.deepcopy(other[place])
    text = json.dumps(tree[0] if tree else None)
    return mutate_bytes(rng, text.encode(), seeds) if rng.random() < 0.1 else text.encode()


def walk(node: Any) -> list[Any]:
    """All lists and objects in a tree."""
    if not isinstance(node, dict | list):
        return []
    children = node.values() if isinstance(node, dict) else node
    return [node, *(inner for child in children for inner in walk(child))]


def mutate_lines(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    """Lines that are removed, repeated, exchanged or changed."""
    lines = content.splitlines(keepends=True)
    for _ in range(geometric(rng)):
        place = rng.randrange(len(lines)) if lines else 0
        match rng.randrange(5):
            case 0:
                del lines[place : place + 1]
            case 1:
                lines[place:place] = lines[place : place + 1] * rng.choice((1, 3, 100))
            case 2:
                rng.shuffle(lines)
            case _ if lines:
                lines[place] = mutate_bytes(rng, lines[place], seeds)
    return b''.join(lines)
