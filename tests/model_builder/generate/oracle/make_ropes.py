"""Makes ``ropes.json``: rotary frequencies and factors by the `transformers` library.

Run by ``make oracle``. Each case: what a configuration states (``rope_parameters``), its
``max_position_embeddings`` and ``head_dim``, and the library's ``frequencies`` and ``scale``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers as hf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HEAD, TRAINED, BASE = 64, 4096, 1e6
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0}
PLACED: dict[str, Any] = {**YARN, "original_max_position_embeddings": 1024}
CASES: dict[str, dict[str, Any]] = {
    "yarn": PLACED,
    "yarn without original": YARN,
    "yarn beta_fast": {**PLACED, "beta_fast": 64.0},
    "yarn beta_slow": {**PLACED, "beta_slow": 4.0},
    "yarn both betas": {**PLACED, "beta_fast": 20.0, "beta_slow": 2.5},
    "yarn attention_factor": {**PLACED, "attention_factor": 0.7},
    "yarn mscale alone": {**PLACED, "mscale": 0.7},
    "yarn mscale_all_dim alone": {**PLACED, "mscale_all_dim": 0.7},
    "yarn both mscales": {**PLACED, "mscale": 0.7, "mscale_all_dim": 1.2},
    "yarn all factors": {**PLACED, "attention_factor": 1.3, "mscale": 0.7, "mscale_all_dim": 2.0},
    "yarn not truncated": {**PLACED, "truncate": False},
    "yarn not truncated, betas": {**PLACED, "truncate": False, "beta_fast": 9.0, "beta_slow": 3.0},
    "yarn one place": {**PLACED, "beta_fast": 3.0, "beta_slow": 2.9},
    "yarn with nothing said": {
        **PLACED, "beta_fast": None, "beta_slow": None, "attention_factor": None, "mscale": None,
        "mscale_all_dim": None,
    },
    "yarn factor 1": {**PLACED, "factor": 1.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "linear": {"rope_type": "linear", "factor": 2.5},
}  # fmt: skip


def main() -> None:
    """Writes the file."""
    found: dict[str, Any] = {"version": hf.__version__, "head_dim": HEAD, "base": BASE}
    found |= {"trained": TRAINED, "cases": {}}
    for name, stated in CASES.items():
        config = hf.Qwen3Config(
            head_dim=HEAD, max_position_embeddings=TRAINED,
            rope_parameters={"rope_theta": BASE, **stated},
        )  # fmt: skip
        frequencies, scale = ROPE_INIT_FUNCTIONS[stated["rope_type"]](config, "cpu")
        found["cases"][name] = {
            "stated": stated,
            "frequencies": [float(f"{value:.9g}") for value in frequencies.tolist()],
            "scale": float(scale),
        }
    text = json.dumps(found, indent=1)
    Path(__file__).with_name("ropes.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
