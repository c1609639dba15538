"""JPEG files with samplings that Pillow reads and does not write: random coefficients under a code of four bits a symbol.

Only what the decoder has to do with is here: sequential coding, one quantizer, tables of 12 and 8 symbols.
"""

import struct

SIZES = list(range(12))
RUNS = [0x00, 0x01, 0x02, 0x03, 0xF0, 0x11, 0x21, 0x51]


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


class Coder:
    def __init__(self):
        self.bits = ""

    def put(self, value, count):
        self.bits += format(value, f"0{count}b") if count else ""

    def number(self, value, count):
        self.put(value if value >= 0 else value + (1 << count) - 1, count)

    def block(self, random, last):
        value = int(random.integers(-200, 200))
        size = abs(value - last).bit_length()
        self.put(SIZES.index(size), 4)
        self.number(value - last, size)
        k = 1
        while k < 60 and random.random() < 0.7:
            symbol = RUNS[int(random.integers(1, len(RUNS)))]
            run, size = symbol >> 4, symbol & 15
            if k + run + 1 > 63:
                break
            self.put(RUNS.index(symbol), 4)
            if size:
                self.number(int(random.integers(1 << (size - 1), 1 << size)) * int(random.choice([-1, 1])), size)
            k += run + 1
        self.put(0, 4)
        return value

    def bytes(self):
        bits = self.bits + "1" * (-len(self.bits) % 8)
        data = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
        return data.replace(b"\xff", b"\xff\0")


def write(width, height, factors, random, interleaved=True):
    """A file whose components have these (horizontal, vertical) factors."""
    h, v = (max(f[axis] for f in factors) for axis in (0, 1))
    count = len(factors)
    table = lambda head, symbols: segment(0xC4, bytes([head, 0, 0, 0, len(symbols)] + [0] * 12 + symbols))
    out = b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    out += segment(0xDB, bytes([0, *random.integers(1, 9, 64)]))
    frame = b"".join(bytes([i + 1, f[0] << 4 | f[1], 0]) for i, f in enumerate(factors))
    out += segment(0xC0, struct.pack(">BHHB", 8, height, width, count) + frame)
    out += table(0, SIZES) + table(0x10, RUNS)
    for scan in [range(count)] if interleaved else [[i] for i in range(count)]:
        out += segment(0xDA, bytes([len(scan)]) + b"".join(bytes([i + 1, 0]) for i in scan) + b"\0\x3f\0")
        coder, last = Coder(), [0] * count
        if len(scan) > 1:
            units, inner = -(-width // (8 * h)) * -(-height // (8 * v)), lambda i: factors[i][0] * factors[i][1]
        else:
            sides = [-(-side * factors[scan[0]][axis] // (h, v)[axis]) for axis, side in enumerate((width, height))]
            units, inner = -(-sides[0] // 8) * -(-sides[1] // 8), lambda i: 1
        for _ in range(units):
            for i in scan:
                for _ in range(inner(i)):
                    last[i] = coder.block(random, last[i])
        out += coder.bytes()
    return out + b"\xff\xd9"
