"""Whether this processor can load ``CompiledModel`` of LiteRT's Python binding.

It loads a GPU library from its own wheel, wanted or not. The one in the aarch64 wheels (seen in
2.1.2 to 2.3.0) was compiled for ARMv8.2 with extras and ends the whole process on anything older
("compiled with lse enabled, but this feature is not available", SIGILL): a Raspberry Pi 3, 4 or
Zero 2 W, a Jetson Nano. The C API and the classic interpreter of the same wheel do not load it.
"""

from __future__ import annotations

import functools
import platform
import struct
from pathlib import Path
from typing import Final

_HWCAP: Final = 16
"""Key of the feature bits in the auxiliary vector (``AT_HWCAP``)."""

# Linux, arch/arm64/include/uapi/asm/hwcap.h.
_NEEDED: Final = {
    "aes": 1 << 3,
    "sha2": 1 << 6,
    "crc32": 1 << 7,
    "atomics": 1 << 8,
    "fphp": 1 << 9,
    "asimdhp": 1 << 10,
    "asimdrdm": 1 << 12,
    "lrcpc": 1 << 15,
    "asimddp": 1 << 20,
}


def missing_features(auxv: bytes) -> list[str]:
    """What an aarch64 processor lacks of what the GPU library was compiled for.

    Args:
        auxv: the kernel's auxiliary vector, as in ``/proc/self/auxv``.
    """
    pairs = dict(struct.iter_unpack("<QQ", auxv[: len(auxv) // 16 * 16]))
    found = pairs.get(_HWCAP, 0)
    return [name for name, bit in _NEEDED.items() if not found & bit]


@functools.cache
def runs_binding() -> bool:
    """Whether it can be used here; when that cannot be known, it is not used."""
    if platform.machine() != "aarch64":
        return True
    try:
        return not missing_features(Path("/proc/self/auxv").read_bytes())
    except OSError:
        return False
