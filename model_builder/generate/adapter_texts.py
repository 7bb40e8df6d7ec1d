"""What an adapter was trained within: texts around a prompt, and a grammar of its answers.

A folder as PEFT writes it says nothing of that. Asked in another form than it learnt, or free to
write what the grammar forbids, an adapter answers worse, and nothing tells why. So a training
leaves a file beside it, which an import reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from contracts import codec, wording
from contracts.errors import InputError

TEXTS: Final = "shoal.json"
_MOST_BYTES: Final = 1 << 19


class AdapterTexts(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """As in :class:`contracts.manifest.AdapterFacts`; None: those of the base."""

    prompt_prefix: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    prompt_suffix: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    grammar: Annotated[str, msgspec.Meta(max_length=64 * 1024)] | None = None


def read_texts(folder: Path) -> AdapterTexts:
    """What a training left beside an adapter; nothing where there is no such file.

    Raises:
        InputError: ``bad-adapter``; the file is broken.
    """
    path = folder / TEXTS
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        return codec.decode(data, AdapterTexts, what="its texts", cap=_MOST_BYTES)
    except FileNotFoundError:
        return AdapterTexts()
    except OSError as error:
        raise InputError("bad-adapter", f"{path} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(
            "bad-adapter", f"{path}: {error}; make the adapter again, or take the file away"
        ) from None


def checked(texts: AdapterTexts) -> AdapterTexts:
    """The texts, if a manifest can hold them.

    Raises:
        InputError: ``bad-recipe``; one is too long.
    """
    try:
        return msgspec.convert(msgspec.structs.asdict(texts), AdapterTexts)
    except msgspec.ValidationError as error:
        raise InputError(
            "bad-recipe",
            "what stands around prompts, or the grammar of the answers, is too long: "
            f"{wording.of(error)}; a shorter system message, or fewer different values with "
            "constrain, may help",
        ) from None
