#!/usr/bin/env python3
"""Records what the `gguf` package makes of random blocks: `tools/gguf_blocks.py > tests/golden/gguf_blocks.json`.

Of each quantised type two blocks: the bytes in hexadecimal, and the values' bits in single precision, eight digits each.
Scales are finite, of either sign and of any size that half precision has; everything else is random.
"""

import json
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where a block has its numbers in half precision.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def blocks(name, n, rng):
    """n random blocks of a type, (n, bytes)."""
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    out = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES[name]:
        sign = rng.choice([-1.0, 1.0], n)
        numbers = (sign * np.exp2(rng.uniform(-20, 15, n))).astype(np.float16)
        out[:, at : at + 2] = numbers[:, None].view(np.uint8)
    return out


def main():
    rng = np.random.default_rng(1)
    recorded = {}
    for name in HALVES:
        data = blocks(name, 2, rng)
        values = dequantize(data, GGMLQuantizationType[name]).astype(">f4")
        recorded[name] = {"blocks": data.tobytes().hex(), "values": values.tobytes().hex()}
    json.dump(recorded, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
