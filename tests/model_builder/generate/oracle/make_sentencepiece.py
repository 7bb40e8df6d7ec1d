"""Makes ``sentencepiece.json``: small vocabularies by SentencePiece, and how it cuts texts.

Run by ``make oracle``. ``bpe`` and ``unigram``: ``pieces``, ``scores``, ``kinds`` as GGUF numbers
them, and ``ids`` of each of ``texts``, with a space before the first word.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece as spm

HERE = Path(__file__).parent
PROSE = HERE.parents[3] / "model_builder/generate/texts/calibration.txt"
RUNS = [sign * count for sign in (" ", "a", "-", "\n", "é", "中") for count in (1, 2, 3, 5, 8, 13)]
ODD = [
    "",
    "  two  spaces ",
    "tab\there",
    "\r\n",
    "naïve café",
    "日本語 テキスト",
    "😀👍🏽",
    "e\u0301",
    "x=1;y[2]",
]


def kind(model: Any, piece: int) -> int:
    """The number of a piece's kind in GGUF."""
    if model.is_unknown(piece):
        return 2
    if model.is_control(piece):
        return 3
    return 6 if model.is_byte(piece) else 1


def main() -> None:
    """Writes the file."""
    prose = PROSE.read_text()
    texts = [*RUNS, *ODD, *(prose[at : at + 60] for at in range(0, 3000, 150))]
    found: dict[str, Any] = {"version": spm.__version__, "texts": texts}
    for name in ("bpe", "unigram"):
        made = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(prose.splitlines()), model_writer=made, model_type=name,
            vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, num_threads=1,
            minloglevel=2,
        )  # fmt: skip
        model = spm.SentencePieceProcessor(model_proto=made.getvalue())
        size = range(model.vocab_size())
        found[name] = {
            "pieces": [model.id_to_piece(i) for i in size],
            "scores": [model.get_score(i) for i in size],
            "kinds": [kind(model, i) for i in size],
            "ids": [model.encode(text) for text in texts],
        }
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    (HERE / "sentencepiece.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
