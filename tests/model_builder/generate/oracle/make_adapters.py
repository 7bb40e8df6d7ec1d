"""Makes the adapters beside it: random LoRAs by the `peft` library, with the logits they give.

Run by ``make oracle`` after ``make_oracle.py``, in the same environment. For each case of
``adapters/``: ``adapter_config.json`` and ``adapter_model.safetensors`` as the library writes them,
and ``logits.npy`` float32 ``[T, vocabulary]`` of ``ids.npy``; ``base`` names the folder here.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers as hf

HERE = Path(__file__).parent
ADAPTERS = HERE.parent / "adapters"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "qwen3": (
        "qwen3",
        {
            "r": 3,
            "lora_alpha": 6,
            "use_rslora": True,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
        },
    ),
    "patterns": (
        "llama-tied",
        {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": r".*\.(q_proj|v_proj|gate_proj|down_proj)",
            "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 6},
            "alpha_pattern": {r"mlp\.down_proj": 16, r"layers.0.self_attn.q_proj": 1},
        },
    ),
    "phi3": ("phi3-partial", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "granite": ("granite", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
    "gemma3": ("gemma3", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}),
}


def main() -> None:
    """Writes all cases, or those that are named."""
    ids = torch.tensor(np.load(HERE / "ids.npy"))[None]
    for number, (name, (base, options)) in enumerate(CASES.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = ADAPTERS / name
        shutil.rmtree(folder, ignore_errors=True)
        model = hf.AutoModelForCausalLM.from_pretrained(
            HERE / base, attn_implementation="eager", dtype=torch.float32
        )
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **options))
        generator = torch.Generator().manual_seed(100 + number)
        with torch.no_grad():
            for parameter_name, value in adapted.named_parameters():
                if "lora_" in parameter_name:
                    noise = torch.randn(value.shape, generator=generator)
                    value.copy_(noise * 0.5 / np.sqrt(value.shape[-1]))
            adapted.eval()
            logits = adapted(ids).logits[0].numpy()
            with adapted.disable_adapter():
                without = adapted(ids).logits[0].numpy()
        assert np.abs(logits - without).max() > 0.3 * logits.std(), "the adapter has to show"
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = folder / "adapter_config.json"
        document = json.loads(config.read_text())
        document["base_model_name_or_path"] = base
        config.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        np.save(folder / "logits.npy", logits.astype(np.float32))
        print(name, np.abs(logits - without).max())
    versions = json.loads((HERE / "versions.json").read_text())
    versions["peft"] = peft.__version__
    (HERE / "versions.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    main()
