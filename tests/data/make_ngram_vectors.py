"""Writes ``tests/contracts/ngram_vectors.json``: what every n-gram front end must give.

``python tests/data/make_ngram_vectors.py``. A changed file means that every bundle in the field
would see other ids: change the front end only with a new schema.
"""

from __future__ import annotations

import json
from pathlib import Path

from contracts.text import NgramConfig, ngram_ids, normalize

TEXTS = [
    "",
    " ",
    "Turn on the LIGHTS, please!",
    "what's the weather like in New York?",
    "set a timer for 5 minutes and 30 seconds",
    "a",
    "Größe Straße ÄÖÜ äöü ŞİĞ şığ Łódź Ñandú Œuvre ÿ",
    "Включи свет на кухне, ЁЖИК!",
    "Άναψε τα φώτα ΣΤΗΝ ΚΟΥΖΙΝΑ",
    "你好，世界。打开灯",
    "リビングの電気をつけて",
    "שלום עולם, הדלק את האור",
    "مرحبا، شغل الضوء",
    "किचन की लाइट चालू करो",
    "ｆｕｌｌ　ｗｉｄｔｈ ＡＢＣ１２３",
    "emoji 🙂🙃 and ½ ² µ × ÷",
    "it’s a ‘quoted’ “text” – dash — end…",
    "tab\tand\nnewline\r\nand\u00a0no-break\u2003space\u1680ogham\u2028line",
    "word " * 60,
    "supercalifragilisticexpialidocioussupercalifragilisticexpialidocious",
    "x" * 300,
    "\u0000\u0001control\u007f",
    "¡Wow! £100 (50%) — really? “Yes”, she said… www.a-b.com/c?d=1&e=2 :-)",
    "Ａ！Ｂ？　，。「x」 ｅ＇ｆ",
    "combining e\u0301 a\u0308",
    "Ǆ ǅ ǆ Ȁ ȁ",
]
CONFIGS = [
    NgramConfig(),
    NgramConfig(buckets=16, length=4, char_min=1, char_max=0, pairs=False),
    NgramConfig(buckets=1000, length=48, char_min=1, char_max=8, pairs=True),
    NgramConfig(buckets=2**24, length=300, char_min=2, char_max=5, pairs=False),
    NgramConfig(buckets=8192, length=256, char_min=3, char_max=4, pairs=True),
    NgramConfig(buckets=60_000, length=200, char_min=3, char_max=5, pairs=True, marks=True),
    NgramConfig(buckets=997, length=12, char_min=2, char_max=0, pairs=True, marks=True),
]


def main() -> None:
    """Writes the file."""
    vectors = []
    for index, config in enumerate(CONFIGS):
        for text in TEXTS:
            ids, truncated = ngram_ids(text, config)
            while ids and ids[-1] == 0:
                ids.pop()
            vectors.append({"config": index, "text": text, "ids": ids, "truncated": truncated})
    document = {
        "about": "ids are without the padding zeros at the end; config is an index into configs",
        "configs": [
            {
                "buckets": config.buckets,
                "length": config.length,
                "char_min": config.char_min,
                "char_max": config.char_max,
                "pairs": config.pairs,
                "marks": config.marks,
            }
            for config in CONFIGS
        ],
        "normalize": [{"text": text, "normal": normalize(text)} for text in TEXTS],
        "vectors": vectors,
    }
    target = Path(__file__).parents[1] / "contracts" / "ngram_vectors.json"
    lines = json.dumps(document, ensure_ascii=True, indent=None, separators=(",", ":"))
    lines = lines.replace('{"config":', '\n{"config":').replace('{"text":', '\n{"text":')
    target.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
