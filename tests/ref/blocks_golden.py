#!/usr/bin/python3
"""Writes tests/golden/blocks/blocks.txt: bytes of blocks of every quantized GGUF type and the values that gguf-py's quants.py (llama.cpp's own
decoder in NumPy) reads from them. PYTHONPATH must have gguf-py.

Of each type random blocks with random scales, and one with all bits set and the largest f16 as its scale."""
import os
import struct
import sys
from unittest.mock import MagicMock

import numpy as np

sys.modules.setdefault("sentencepiece", MagicMock())  # gguf wants it for tokenizers, which are not used here
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from golden_file import GOLDEN, GoldenFile

# type: where its f16 numbers lie in the block
TYPES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "Q2_K": [80, 82], "Q3_K": [108],
         "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0]}


def main():
    random = np.random.default_rng(20)
    out = GoldenFile(os.path.join(GOLDEN, "blocks", "blocks.txt"), "written by tests/ref/blocks_golden.py with gguf-py's decoders")
    for name, scales in TYPES.items():
        kind = GGMLQuantizationType[name]
        elements, size = GGML_QUANT_SIZES[kind]
        n = 2 if elements == 256 else 6
        blocks = random.integers(0, 256, (n, size), dtype=np.uint8)
        blocks[n - 1] = 255
        for i in range(n):
            for at in scales:
                scale = 65504.0 if i == n - 1 else random.normal() * 10.0 ** random.integers(-7, 4)
                blocks[i, at:at + 2] = list(struct.pack("<e", scale))
        out.put(name + ".bytes", blocks.reshape(-1).tolist())
        out.put(name + ".values", dequantize(blocks.reshape(-1), kind).reshape(-1).astype(np.float32).tolist())
    out.close()


if __name__ == "__main__":
    main()
