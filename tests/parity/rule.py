"""Inputs that both sides of the comparison make for themselves: `rule.rs` says the same in Rust.

Noise is Philox4x32-10 (Salmon et al., SC 2011) under a key from the tensor's name, so a value depends on its
name and index alone. Everything else is made of it and of whole numbers by single operations that IEEE 754
rounds alike everywhere.
"""

import math

import numpy as np


def philox(key, counter):
    """Ten rounds on arrays of counters, each four uint32 (as uint64 arrays); returns four arrays."""
    mask = np.uint64(0xFFFFFFFF)
    c = [np.asarray(v, dtype=np.uint64) for v in counter]
    k = [int(v) for v in key]
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            p1 & mask,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            p0 & mask,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def words(name, count):
    """`count` words of 32 bits for a name: FNV-1a of the name is the key, the index the counter."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(blocks)
    c = philox((h & 0xFFFFFFFF, h >> 32), (blocks, zero, zero, zero))
    return np.stack(c, axis=1).reshape(-1)[:count]


def noise(name, shape):
    """f32 in [-1, 1), multiples of 2^-23."""
    count = int(np.prod(shape))
    whole = (words(name, count) >> np.uint64(8)).astype(np.int64) - (1 << 23)
    return (whole.astype(np.float32) * np.float32(2.0**-23)).reshape(shape)


def weight(name, shape, head_scale=1.0):
    """A parameter by its published name, O×I×KH×KW: convolutions uniform with deviation 1/sqrt(fan-in)."""
    n = noise(name, shape)
    if len(shape) == 4:
        scale = math.sqrt(3.0 / (shape[1] * shape[2] * shape[3]))
        return n * np.float32(scale * (head_scale if name.startswith("f9.") else 1.0))
    if name.startswith("bn") or ".bn" in name:
        if name.endswith("weight"):
            return np.float32(1) + np.float32(0.25) * n
        if name.endswith("running_var"):
            return np.float32(1) + np.float32(0.5) * n
    return np.float32(0.1) * n


def image(name, height, width):
    """H×W×3 uint8: three regions of a colour each, a gradient, noise."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    disc = (3 * y - height) ** 2 + (3 * x - width) ** 2 <= (height * height) // 2
    box = (2 * x > width) & (2 * y > height)
    colours = np.array([[90, 120, 60], [200, 60, 50], [40, 80, 190]])
    region = np.where(box, 2, np.where(disc, 1, 0))
    value = colours[region, c] + (x * (c + 1) + 2 * y) % 32
    value += (words(name, height * width * 3) & np.uint64(15)).astype(np.int64).reshape(height, width, 3)
    return value.astype(np.uint8)


def maps(height, width):
    """2×H×W f32 in (0, 1]: a hill on the disc, one on the box, level up to a quarter of the height."""
    y, x = np.meshgrid(np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64), indexing="ij")
    hills = []
    for cy, cx in [(height / 3.0, width / 3.0), (height * 3.0 / 4.0, width * 3.0 / 4.0)]:
        dy, dx = y - cy, x - cx
        q = (dy * dy + dx * dx) * 16.0 / (height * height)
        hills.append(1.0 / (1.0 + q * q * q))
    return np.stack(hills).astype(np.float32)


class Stream:
    """`seedwalk::rng::Stream`: the draws of dropout."""

    def __init__(self, seed, purpose, epoch, index):
        k = philox((seed & 0xFFFFFFFF, seed >> 32), ([purpose], [0], [0], [0x5EED]))
        self.key = (int(k[0][0]), int(k[1][0]))
        self.name = (epoch, index & 0xFFFFFFFF, index >> 32)

    def uniform(self, count):
        blocks = np.arange((count + 3) // 4, dtype=np.uint64)
        same = [np.full_like(blocks, v) for v in self.name]
        w = np.stack(philox(self.key, (blocks, *same)), axis=1).reshape(-1)[:count]
        return (w >> np.uint64(8)).astype(np.float32) * np.float32(1.0 / (1 << 24))
