"""Makes a ``tokenizer.json`` from what a GGUF file says of its tokenizer, small to load."""

from __future__ import annotations

import json
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from contracts.errors import InputError
from model_builder.generate.gguf_source import GgufTokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)

# How text is cut before byte-pair encoding, by the name that GGUF gives it. The patterns are
# those that the models' own tokenizer.json files state.
_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_LETTERS: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{{}}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{{}}"
)
_TEKKEN: Final = _LETTERS.replace("{}", "") + r"|\p{N}" + _REST
_GPT4O: Final = _LETTERS.replace("{}", _SHORT) + r"|\p{N}{1,3}" + _REST
_QWEN2: Final = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35: Final = _QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}", r"\s\p{L}\p{M}")
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_THREE: Final = "[0-9][0-9][0-9]"
# One after the other: each cuts what those before it left.
_PATTERNS: Final = {
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "falcon3"), (_LLAMA3,)
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), (_QWEN2,)),
    "qwen35": (_QWEN35,),
    "tekken": (_TEKKEN,),
    **dict.fromkeys(("gpt-4o", "llama4"), (_GPT4O,)),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _THREE),
    # What readers take where a converter did not know the tokenizer.
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREE),
}
_DIGITS_APART: Final = frozenset(
    {"smollm", "codeshell", "refact", "starcoder", "command-r", "exaone", "minerva-7b"}
)
_WHOLE: Final = frozenset(
    {"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "a.x-4.0"}
    | {"mellum", "exaone4"}
)
# Their own files take a word that is a token whole, whatever the merges say.
_WHOLE_WORDS: Final = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken", "falcon3"})


def slim(tokenizer_json: str) -> str:
    """The same tokenizer, written so that a device loads it with less memory.

    Merges are lines ``first second``, as all tokenizers had them before some needed spaces in
    their tokens. Pairs in lists leave 2.4 MB more of the heap in pieces for 49,000 merges, and
    take half as long again to parse.

    Args:
        tokenizer_json: a valid ``tokenizer.json``.
    """
    document = json.loads(tokenizer_json)
    model = document.get("model") or {}
    merges = model.get("merges") or []
    pairs = [merge for merge in merges if isinstance(merge, list)]
    # The reader splits a line at its spaces, and skips those that begin like a header.
    if any(" " in part for pair in pairs for part in pair) or any(
        pair[0].startswith("#version") for pair in pairs
    ):
        return tokenizer_json
    if pairs:
        model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def build_tokenizer(source: GgufTokenizer) -> Tokenizer:
    """The tokenizer of a GGUF file.

    Raises:
        InputError: ``unknown-tokenizer``, ``bad-weights``.
    """
    if len(set(source.tokens)) != len(source.tokens):
        raise InputError("bad-weights", "the tokenizer lists a token twice")
    try:
        if source.model == "gpt2":
            tokenizer = _byte_level(source)
        elif source.model == "llama":
            tokenizer = _sentencepiece(source)
        else:
            raise InputError(
                "unknown-tokenizer",
                f"the tokenizer is of the kind {source.model[:40]!r}; expected gpt2 or llama",
            )
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise InputError("bad-weights", f"the tokenizer is broken: {str(error)[:200]}") from None
    special = [
        AddedToken(token, special=kind != _USER, normalized=False)
        for token, kind in zip(source.tokens, source.kinds, strict=False)
        if kind in (_CONTROL, _USER)
    ]
    tokenizer.add_tokens([token for token in special if not token.special])
    tokenizer.add_special_tokens([token for token in special if token.special])
    return tokenizer


def _byte_level(source: GgufTokenizer) -> Tokenizer:
    if not source.merges:
        raise InputError("unknown-tokenizer", "the file lacks the tokenizer's merges")
    merges = []
    for merge in source.merges:
        parts = merge.split(" ")
        if len(parts) != 2:
            raise InputError("bad-weights", f"{merge[:40]!r} is not a merge of two tokens")
        merges.append((parts[0], parts[1]))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(source.tokens)},
            merges=merges,
            ignore_merges=source.pre in _WHOLE_WORDS,
        )
    )
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if source.pre in _DIGITS_APART:
        cut: Any = [pre_tokenizers.Digits(individual_digits=True), whole]
    elif source.pre in _PATTERNS:
        cut = [pre_tokenizers.Split(Regex(one), "isolated") for one in _PATTERNS[source.pre]]
        cut.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        if source.pre in ("qwen2", "deepseek-r1-qwen"):
            tokenizer.normalizer = normalizers.NFC()
    elif source.pre in _WHOLE:
        cut = [whole]
    elif not source.pre:
        raise InputError(
            "unknown-tokenizer",
            "the file does not say how its text is cut (tokenizer.ggml.pre), like those of before "
            "May 2024; convert the model again",
        )
    else:
        raise InputError(
            "unknown-tokenizer", f"the text is cut in a way unknown here: {source.pre[:40]!r}"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(source: GgufTokenizer) -> Tokenizer:
    """Llama 1 and 2: pieces with scores; a merge comes first when its piece has a better one."""
    if len(source.scores) != len(source.tokens):
        raise InputError("bad-weights", "the tokenizer has not one score a token")
    vocabulary = {t: i for i, t in enumerate(source.tokens)}
    ranked = []
    for token, score in zip(source.tokens, source.scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-score, vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    # Other kinds are found whole in a text, whatever their scores.
    normal = {t for t, k in zip(source.tokens, source.kinds, strict=False) if k == _NORMAL}
    joined = {left + right: rank for rank, *_, left, right in ranked}
    _check_ranks([rank for piece, rank in joined.items() if piece in normal])
    unknown = next(
        (t for t, k in zip(source.tokens, source.kinds, strict=False) if k == _UNKNOWN), None
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for *_, left, right in ranked],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = [normalizers.Prepend("▁")] if source.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if source.add_space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _check_ranks(ranks: list[float]) -> None:
    """Refuses scores that do not say which of two pieces is joined first.

    SentencePiece's byte-pair encoding numbers its merges. Its other kind scores pieces by their
    probability and joins none, which GGUF does not tell apart; and converters that had no scores
    wrote one for all.

    Args:
        ranks: one for each piece that two others make.

    Raises:
        InputError: ``unknown-tokenizer``.
    """
    what = ""
    if not all(rank.is_integer() for rank in ranks):
        what = "probabilities of its pieces (SentencePiece's unigram), which are not joined by them"
    elif len(set(ranks)) < len(ranks):
        what = "the same score for several pieces, so that none is known to be joined first"
    if what:
        raise InputError(
            "unknown-tokenizer",
            f"the tokenizer has {what}; import the safetensors that it was converted from, with "
            "their tokenizer.json",
        )
