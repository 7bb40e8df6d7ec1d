"""Reads a Hugging Face folder (``config.json``, ``*.safetensors``, ``tokenizer.json``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from contracts import codec, limits
from contracts.errors import InputError
from model_builder.generate.families import understand
from model_builder.generate.tensors import Packing, read_weights
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights

_MAX_JSON = 64 * limits.MIB
_FLOATS = ("F32", "F16", "BF16")
_BODY = "model."
# Tensors that hold nothing: tables that are computed again, and a head that is tied.
_DERIVED = re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq|lm_head\.weight")


class HfFolder:
    """An opened folder.

    Attributes:
        plan: its config.json, understood.

    Raises:
        InputError: ``no-such-file``, ``unknown-architecture``, ``bad-weights``, ``bad-message``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if (path / "adapter_config.json").is_file():
            raise InputError(
                "unknown-architecture",
                f"{path} holds an adapter (adapter_config.json); merge it into its base first, "
                "or take it out to import the base alone",
            )
        self._config = self._json("config.json")
        self.plan = understand(self._config, f"{path.name}/config.json")

    def _read(self, name: str) -> bytes:
        file = self.path / name
        if not file.is_file():
            instead = _instead(self.path, name)
            raise InputError("no-such-file", f"{self.path} has no {name}{instead}")
        if file.stat().st_size > _MAX_JSON:
            raise InputError("too-large", f"{file} is over {_MAX_JSON} bytes")
        return file.read_bytes()

    def _json(self, name: str) -> dict[str, Any]:
        return codec.decode(
            self._read(name), dict[str, Any], what=f"{self.path.name}/{name}", cap=_MAX_JSON
        )

    def _json_if_there(self, name: str) -> dict[str, Any]:
        return self._json(name) if (self.path / name).is_file() else {}

    def config(self) -> DecoderConfig:
        """The decoder's shape."""
        return self.plan.config

    def packing(self) -> Packing:
        """How its matrices become the decoder's."""
        return Packing(self.plan.rotary, self.plan.multipliers.residual)

    def end_ids(self) -> list[int]:
        """Ids that end an answer, by config.json and generation_config.json."""
        found: set[int] = set()
        for document in (self._config, self._json_if_there("generation_config.json")):
            stated = document.get("eos_token_id")
            for value in stated if isinstance(stated, list) else [stated]:
                if isinstance(value, int) and not isinstance(value, bool):
                    if not 0 <= value < self.plan.config.vocabulary:
                        raise InputError("bad-weights", f"eos_token_id {value} is no token")
                    found.add(value)
        return sorted(found)

    def end_texts(self) -> list[str]:
        """Tokens that end an answer, by the tokenizer's own files."""
        found = []
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            text = _token_text(self._json_if_there(name).get("eos_token"))
            found += [text] if text else []
        return found

    def begins(self) -> tuple[int | None, str | None, bool | None]:
        """The id of the first token by config.json, its text, and whether texts begin with it."""
        stated = self._config.get("bos_token_id")
        settings = self._json_if_there("tokenizer_config.json")
        rule = settings.get("add_bos_token")
        return (
            stated if isinstance(stated, int) else None,
            _token_text(settings.get("bos_token")),
            rule if isinstance(rule, bool) else None,
        )

    def tokenizer_json(self) -> bytes:
        """``tokenizer.json`` as it is."""
        return self._read("tokenizer.json")

    def chat_template(self) -> str | None:
        """The chat template, where there is one."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return self._read(file.name).decode("utf-8", "replace")
        file = self.path / "chat_template.json"
        template = self._json_if_there("tokenizer_config.json").get("chat_template")
        if template is None and file.is_file():
            template = self._json(file.name).get("chat_template")
        if isinstance(template, list):
            named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
            template = named[0].get("template") if named else None
        return template if isinstance(template, str) else None

    def weights(self) -> DecoderWeights:
        """All weights as float32.

        Raises:
            InputError: ``bad-weights``.
        """
        where = _index(self.path)
        # A checkpoint of the body alone leaves its name out, which the library takes, too.
        body = "" if any(name.startswith(_BODY) for name in where) else _BODY
        stored = {name if name.startswith("lm_head.") else body + name: name for name in where}
        where = {name: where[inner] for name, inner in stored.items()}
        read: set[str] = set()

        def get(name: str) -> Array:
            if name not in where:
                raise InputError("bad-weights", f"{self.path.name} lacks the tensor {name}")
            read.add(name)
            return load_tensor(where[name], stored[name])

        def maybe(name: str) -> Array | None:
            return get(name) if name in where else None

        weights = read_weights(self.plan, get, maybe)
        for name in sorted(where.keys() - read):
            if not _DERIVED.fullmatch(name):
                raise InputError(
                    "bad-weights",
                    f"{self.path.name} has the tensor {name[:100]}, which nothing of the stated "
                    "architecture uses",
                )
        return weights


def _token_text(stated: Any) -> str | None:
    """A token in ``tokenizer_config.json``: its text, or an object that has it."""
    if isinstance(stated, dict):
        stated = stated.get("content")
    return stated if isinstance(stated, str) and stated else None


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights, as the library that writes them finds them."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() and index.is_file():
        raise InputError(
            "bad-weights",
            f"{folder} has both {single.name} and {index.name}; one of them is a leftover",
        )
    if index.is_file():
        document = codec.decode(index.read_bytes(), dict[str, Any], what=index.name, cap=_MAX_JSON)
        shards = document.get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in shards.values()
        ):
            raise InputError("bad-weights", f"{index.name} has no list of files")
        files = [folder / name for name in sorted(set(shards.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError("no-such-file", f"{folder} lacks {', '.join(missing[:3])}")
        return files
    if single.is_file():
        return [single]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        raise InputError(
            "bad-weights", f"{folder} has {len(files)} *.safetensors files and no {index.name}"
        )
    return files


def _instead(folder: Path, name: str) -> str:
    """What to do where a folder lacks a file, by what is there."""
    inner = sorted(one.parent.name for one in folder.glob(f"*/{name}"))
    if inner:
        return f"; {inner[-1]} in it has one: name that folder"
    pickled = sorted(one.name for one in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
    if name.endswith(".safetensors") and pickled:
        return (
            f"; {pickled[0]} may run code when it is read: load the model with transformers and "
            "write it with save_pretrained"
        )
    if name == "tokenizer.json" and any(folder.iterdir()):
        return "; transformers writes one: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    return ""


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it."""
    found: dict[str, Path] = {}
    files = _files(folder)
    if not files:
        raise InputError(
            "no-such-file",
            f"{folder} has no *.safetensors file{_instead(folder, 'model.safetensors')}",
        )
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                names = list(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise InputError("bad-weights", f"{file.name} is broken: {error}") from None
        twice = next((name for name in names if name in found), None)
        if twice is not None:
            raise InputError("bad-weights", f"{found[twice].name} and {file.name} hold {twice}")
        found.update(dict.fromkeys(names, file))
    return found


def load_tensor(file: Path, name: str) -> Array:
    """A tensor in float32; bfloat16, which NumPy lacks, is widened by hand."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            part = tensors.get_slice(name)
            shape, kind = part.get_shape(), part.get_dtype()
            if kind not in _FLOATS:
                raise InputError(
                    "unknown-architecture",
                    f"{file.name}: {name} is {kind}; expected {', '.join(_FLOATS)}",
                )
            if kind != "BF16":
                return np.ascontiguousarray(tensors.get_tensor(name), dtype=np.float32)
        return _bfloat16(file, name, shape)
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError("bad-weights", f"{file.name}: {name} is broken: {error}") from None


def _bfloat16(file: Path, name: str, shape: list[int]) -> Array:
    """Reads the upper halves of float32 values (safetensors: 8-byte length, JSON, data)."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = msgspec.json.decode(stream.read(min(length, 100 * limits.MIB)))
        start, stop = header[name]["data_offsets"]
        stream.seek(8 + length + start)
        halves = np.frombuffer(stream.read(stop - start), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
