"""Makes ``ggml_blocks.npz``: blocks of every quantised type, and what llama.cpp reads in them.

Run by hand in an environment of its own with ``llama-cpp-python`` (0.3.36), whose library
quantises and dequantises: for a type by its number, ``blocks_N`` uint8 and ``values_N`` float32
[256].
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

VALUES = 256
TYPES = (2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 29, 34, 35, 39, 40)


class Traits(ctypes.Structure):
    """``ggml_type_traits``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def main() -> None:
    """Writes the file."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(folder / "libggml-base.so"))
    library.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    rng = np.random.default_rng(3)
    given = (rng.normal(0, 0.1, VALUES) * rng.choice([1, 1, 1, 6], VALUES)).astype(np.float32)
    weights = rng.uniform(0.5, 2, VALUES).astype(np.float32)
    found = {}
    for kind in TYPES:
        traits = library.ggml_get_type_traits(kind).contents
        library.ggml_quantize_init(kind)
        blocks = np.zeros(VALUES // traits.block * traits.size, np.uint8)
        values = np.zeros(VALUES, np.float32)
        library.ggml_quantize_chunk(
            ctypes.c_int(kind), ctypes.c_void_p(given.ctypes.data),
            ctypes.c_void_p(blocks.ctypes.data), ctypes.c_int64(0), ctypes.c_int64(1),
            ctypes.c_int64(VALUES), ctypes.c_void_p(weights.ctypes.data),
        )  # fmt: skip
        traits.to_float(blocks.ctypes.data, values.ctypes.data, VALUES)
        found |= {f"blocks_{kind}": blocks, f"values_{kind}": values}
        print(kind, traits.name.decode(), float(np.abs(values - given).mean()))
    np.savez_compressed(Path(__file__).with_name("ggml_blocks.npz"), **found)


if __name__ == "__main__":
    main()
