"""LiteRT through its C API: models of which only some signatures are prepared.

The Python binding brings a second copy of the runtime (in ``libpywrap_litert_common.so``) and a
GPU library, loads whole files, copies every tensor, and keeps a second description of the model
that only compilers for other processors need. Here a model is a view of a file
(:mod:`agent.runtime.signature_view`), buffers are NumPy's memory, and the second description
is freed as soon as the first is compiled.

Declarations: ``litert/c`` of https://github.com/google-ai-edge/LiteRT, as of 2.2 and 2.3.

Over 400 lines: one C API, whose handles are made and freed together.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.children.quiet import quiet
from agent.runtime.signature_view import view_signatures
from contracts.adapter import Adapter
from contracts.errors import UnavailableError

Array = npt.NDArray[Any]

VERSIONS = ("2.2.", "2.3.")
"""Releases of ai-edge-litert whose C API has these declarations."""

_CPU = 1
HARDWARE = {"gpu": 2, "npu": 4}
"""Accelerators beside the processor, as bits (``LiteRtHwAccelerators``)."""

_COMPILER_FOLDER, _DISPATCH_FOLDER, _RUNTIME_FOLDER = 0, 1, 22
"""Tags of an environment's options: where libraries of accelerators are."""
_STRING = 8
_RANK = 8
_ALIGNMENT = 64
_OVERREAD = 128
"""Bytes that XNNPACK may read beyond the end of a tensor."""
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.int32),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int64),
    6: np.dtype(np.bool_),
    9: np.dtype(np.int8),
    10: np.dtype(np.float16),
}


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint32, 7),
        ("has_strides", ctypes.c_uint32, 1),
        ("dimensions", ctypes.c_int32 * _RANK),
        ("strides", ctypes.c_uint32 * _RANK),
    )


class Kind(ctypes.Structure):
    """Element and shape of a tensor."""

    _fields_ = (("element", ctypes.c_int32), ("layout", _Layout))


class _EnvironmentOption(ctypes.Structure):
    """``LiteRtEnvOption`` with a string: a tag, and a ``LiteRtAny``."""

    _fields_ = (("tag", ctypes.c_int), ("type", ctypes.c_int64), ("value", ctypes.c_char_p))


class Memory:
    """Room for some tensors at a time, zero at first.

    Args:
        size: bytes, as :meth:`needed` counts them.
    """

    def __init__(self, size: int) -> None:
        # Pages of zeros that the system makes when they are first used.
        self._bytes = np.zeros(size + _ALIGNMENT + _OVERREAD, np.uint8)
        self._first = -self._bytes.ctypes.data % _ALIGNMENT
        self._taken = self._first

    @staticmethod
    def needed(kinds: Iterable[Kind]) -> int:
        """Bytes that tensors of these types take."""
        return sum(_aligned(_size_of(kind)) for kind in kinds)

    def take(self, kind: Kind) -> Array:
        """The next tensor's values."""
        size = _size_of(kind)
        start = self._taken
        self._taken += _aligned(size)
        shape = tuple(kind.layout.dimensions[: kind.layout.rank])
        return self._bytes[start : start + size].view(_TYPES[kind.element]).reshape(shape)

    def rows(self, kind: Kind, count: int) -> Array:
        """``[count, *shape]``: as many tensors of one type, each where it may lie."""
        size = _size_of(kind)
        start, step = self._taken, _aligned(size)
        self._taken += count * step
        found = self._bytes[start : self._taken].reshape(count, step)[:, :size]
        shape = tuple(kind.layout.dimensions[: kind.layout.rank])
        return found.view(_TYPES[kind.element]).reshape(count, *shape)

    def reuse(self) -> None:
        """Gives the room out again from its beginning."""
        self._taken = self._first


def _size_of(kind: Kind) -> int:
    shape = kind.layout.dimensions[: kind.layout.rank]
    return int(math.prod(shape)) * _TYPES[kind.element].itemsize


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT


class Tensor:
    """Memory that LiteRT reads and writes in place.

    Args:
        library: to use.
        kind: its type.
        memory: to take it from; None: its own.
        values: memory that is its own already.

    Attributes:
        values: the memory; it must not be used after :meth:`close`.
    """

    def __init__(
        self,
        library: Library,
        kind: Kind,
        memory: Memory | None = None,
        values: Array | None = None,
    ) -> None:
        if values is None:
            values = (memory or Memory(Memory.needed([kind]))).take(kind)
        self.values = values
        self._library = library
        self.handle = ctypes.c_void_p()
        library.call(
            "LiteRtCreateTensorBufferFromHostMemory",
            ctypes.byref(kind),
            ctypes.c_void_p(self.values.ctypes.data),
            ctypes.c_size_t(self.values.nbytes),
            None,
            ctypes.byref(self.handle),
        )

    def close(self) -> None:
        """Gives the memory back."""
        self._library.destroy("LiteRtDestroyTensorBuffer", self.handle)
        self.values = np.empty(0, self.values.dtype)


class Signature:
    """One signature of a loaded model: types of its tensors, in its order."""

    def __init__(self, model: Model, index: int, key: str) -> None:
        self.model = model
        self.index = index
        self.key = key
        self.inputs: dict[str, Kind] = {}
        self.outputs: dict[str, Kind] = {}

    def bound(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Callable[[], None]:
        """A function that runs it on tensors in :attr:`inputs`' and :attr:`outputs`' order.

        It raises ``RuntimeError`` when LiteRT refuses, and must not be called when model or
        tensors are closed.
        """
        counts = [ctypes.c_size_t(len(tensors)) for tensors in (inputs, outputs)]
        handles = [
            (ctypes.c_void_p * len(tensors))(*(t.handle.value for t in tensors.values()))
            for tensors in (inputs, outputs)
        ]
        return partial(
            self.model.library.call,
            "LiteRtRunCompiledModel",
            self.model.handle,
            ctypes.c_size_t(self.index),
            counts[0],
            handles[0],
            counts[1],
            handles[1],
        )


def _file() -> Path:
    import ai_edge_litert

    return Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"


def _folders(accelerator: str) -> dict[int, Path]:
    """Where libraries of an accelerator are in the wheel: tag -> folder."""
    wheel = _file().parent
    if accelerator == "gpu":
        return {_RUNTIME_FOLDER: wheel}
    vendors = sorted(wheel.glob("vendors/*/dispatch/libLiteRtDispatch_*.so"))
    if accelerator == "npu" and vendors:
        dispatch = vendors[0].parent
        return {_DISPATCH_FOLDER: dispatch, _COMPILER_FOLDER: dispatch.parent / "compiler"}
    return {}


class Library:
    """``libLiteRt.so`` and an environment in it.

    Args:
        threads: of inference.
        cache: file for packed weights.
        accelerator: ``gpu`` or ``npu``, beside the processor; empty: none.

    Raises:
        OSError: there is no such library.
        RuntimeError: LiteRT refuses.
        UnavailableError: ``accelerator-absent``; it does not offer this one.
    """

    def __init__(self, threads: int, cache: Path | None, accelerator: str = "") -> None:
        self._library = ctypes.CDLL(str(_file()))
        self._c = ctypes.CDLL(None)
        self._c.strdup.restype = ctypes.c_void_p
        self._threads = threads
        self._cache = cache
        self._hardware = HARDWARE.get(accelerator, 0)
        self.environment = ctypes.c_void_p()
        # Without options that say where the wheel is, no GPU library is found: a few megabytes,
        # and the end of the process on old ARM (ADR 3).
        folders = _folders(accelerator)
        given = (_EnvironmentOption * len(folders))(
            *(_EnvironmentOption(tag, _STRING, str(at).encode()) for tag, at in folders.items())
        )
        with quiet():
            self.call(
                "LiteRtCreateEnvironment",
                ctypes.c_int(len(folders)),
                given if folders else None,
                ctypes.byref(self.environment),
            )
        offered = self.offered()
        if self._hardware and not any(bits & self._hardware for bits in offered.values()):
            self.close()
            raise UnavailableError(
                "accelerator-absent",
                f"LiteRT offers no {accelerator} here, only {', '.join(offered)}",
            )

    def offered(self) -> dict[str, int]:
        """Names of the accelerators that the environment has, the processor's too -> bits."""
        found = {}
        count = ctypes.c_size_t()
        self.call("LiteRtGetNumAccelerators", self.environment, ctypes.byref(count))
        for index in range(count.value):
            handle, name, bits = ctypes.c_void_p(), ctypes.c_char_p(), ctypes.c_int()
            self.call(
                "LiteRtGetAccelerator",
                self.environment,
                ctypes.c_size_t(index),
                ctypes.byref(handle),
            )
            self.call("LiteRtGetAcceleratorName", handle, ctypes.byref(name))
            self.call("LiteRtGetAcceleratorHardwareSupport", handle, ctypes.byref(bits))
            found[(name.value or b"").decode(errors="replace")] = bits.value
        return found

    @staticmethod
    def supports(version: str) -> bool:
        """Whether a release's C API is known; other systems have a library of another name."""
        return version.startswith(VERSIONS) and _file().is_file()

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a function that returns a status.

        Raises:
            RuntimeError: it is not 0.
        """
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} answered {status}")

    def destroy(self, function: str, handle: ctypes.c_void_p) -> None:
        """Calls a function that frees what `handle` stands for, once."""
        if handle.value:
            destroy = getattr(self._library, function)
            destroy.restype = None
            destroy(handle)
            handle.value = None

    def options(self) -> ctypes.c_void_p:
        """Options for a compilation; the caller destroys them."""
        handle = ctypes.c_void_p()
        self.call("LiteRtCreateOptions", ctypes.byref(handle))
        self.call(
            "LiteRtSetOptionsHardwareAccelerators", handle, ctypes.c_int(_CPU | self._hardware)
        )
        processor = f"num_threads = {self._threads}\n"
        if self._cache is not None:
            processor += f"weight_cache_file_path = {json.dumps(str(self._cache))}\n"
        # The second keeps zero points that all channels of a tensor have in common once, and not
        # a channel and a signature.
        for name, text in (
            ("xnnpack", processor),
            ("runtime_options_string", "compress_quantization_zero_points = true\n"),
        ):
            chapter = ctypes.c_void_p()
            self.call(
                "LiteRtCreateOpaqueOptions",
                ctypes.c_char_p(name.encode()),
                ctypes.c_void_p(self._c.strdup(text.encode())),
                ctypes.cast(self._c.free, ctypes.c_void_p),
                ctypes.byref(chapter),
            )
            self.call("LiteRtAddOpaqueOptions", handle, chapter)
        return handle

    def close(self) -> None:
        """Frees the environment; models and tensors must be closed before."""
        with quiet():
            self.destroy("LiteRtDestroyEnvironment", self.environment)


class Model:
    """Some signatures of a model file, compiled.

    Args:
        library: to use.
        path: of the file.
        names: of the signatures; None: all.
        adapter: that is in them. Its matrices are packed beside the weights' file, which another
            model must have filled before: what is packed is known there by its place alone.

    Raises:
        RuntimeError: LiteRT refuses the model.
        ValueError: it is no model file, lacks a signature, or takes no such adapter.
    """

    def __init__(
        self,
        library: Library,
        path: Path,
        names: Collection[str] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.library = library
        self.handle = ctypes.c_void_p()
        self._file: mmap.mmap | None = view_signatures(path, names, adapter)
        self._memory: Any = (ctypes.c_char * len(self._file)).from_buffer(self._file)
        description, options = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            with quiet():
                library.call(
                    "LiteRtCreateModelFromBuffer",
                    library.environment,
                    ctypes.byref(self._memory),
                    ctypes.c_size_t(len(self._file)),
                    ctypes.byref(description),
                )
                options = library.options()
                library.call(
                    "LiteRtCreateCompiledModel",
                    library.environment,
                    description,
                    options,
                    ctypes.byref(self.handle),
                )
            self.signatures = {s.key: s for s in self._signatures(description)}
        except BaseException:
            self.close()
            raise
        finally:
            library.destroy("LiteRtDestroyOptions", options)
            # What runs is made of the mapped file, not of this.
            library.destroy("LiteRtDestroyModel", description)

    def _signatures(self, description: ctypes.c_void_p) -> list[Signature]:
        found = []
        count = ctypes.c_size_t()
        self.library.call("LiteRtGetNumModelSignatures", description, ctypes.byref(count))
        for index in range(count.value):
            handle, key = ctypes.c_void_p(), ctypes.c_char_p()
            self.library.call(
                "LiteRtGetModelSignature", description, ctypes.c_size_t(index), ctypes.byref(handle)
            )
            self.library.call("LiteRtGetSignatureKey", handle, ctypes.byref(key))
            signature = Signature(self, index, (key.value or b"").decode())
            for side, types in (("Input", signature.inputs), ("Output", signature.outputs)):
                number = ctypes.c_size_t()
                self.library.call(f"LiteRtGetNumSignature{side}s", handle, ctypes.byref(number))
                for at in range(number.value):
                    name, kind = self._tensor(handle, side, at)
                    types[name] = kind
            found.append(signature)
        return found

    def _tensor(self, signature: ctypes.c_void_p, side: str, at: int) -> tuple[str, Kind]:
        name, tensor, kind = ctypes.c_char_p(), ctypes.c_void_p(), Kind()
        index = ctypes.c_size_t(at)
        call = self.library.call
        call(f"LiteRtGetSignature{side}Name", signature, index, ctypes.byref(name))
        call(f"LiteRtGetSignature{side}TensorByIndex", signature, index, ctypes.byref(tensor))
        call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        return (name.value or b"").decode(), kind

    def close(self) -> None:
        """Frees the model and its map of the file."""
        with quiet():
            self.library.destroy("LiteRtDestroyCompiledModel", self.handle)
        self._memory = None
        self._file = None
