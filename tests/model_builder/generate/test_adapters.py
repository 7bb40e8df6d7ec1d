"""Adapters as PEFT writes them: what they compute, apart and merged, and what is refused.

The fixtures in ``adapters/`` are the `peft` library's own words; ``make oracle`` makes them again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from contracts import codec
from contracts.adapter import Adapter, encode
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.manifest import AdapterFacts
from contracts.messages import BundleRef
from model_builder.cli import app
from model_builder.generate import reference
from model_builder.generate.adapt import AdapterOptions, import_adapter, import_merged
from model_builder.generate.adapter_texts import TEXTS, AdapterTexts
from model_builder.generate.basis import Basis, merged
from model_builder.generate.fold import fold
from model_builder.generate.package import Layout, build_model, facts_of
from model_builder.generate.peft import PeftAdapter, read_adapter
from model_builder.generate.quantize import quantize
from model_builder.generate.runner import Runner
from model_builder.generate.safetensors_source import HfFolder
from model_builder.generate.weights import Array, DecoderWeights
from tests.support.adapters import write_adapter
from tests.support.tiny_decoder import tiny_bundle, tiny_weights

HERE = Path(__file__).parent
CASES = sorted(folder.name for folder in (HERE / "adapters").iterdir())
IDS = np.load(HERE / "oracle" / "ids.npy")


def opened(case: str) -> tuple[DecoderWeights, Basis, PeftAdapter, Array]:
    """Base, its basis, the adapter, and the logits of both by the library."""
    folder = HERE / "adapters" / case
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    source = HfFolder(HERE / "oracle" / base)
    weights = source.weights()
    basis = Basis.of(weights, source.packing(), rotate=True, seed=3)
    basis = Basis.from_bytes(basis.to_bytes())
    return weights, basis, read_adapter(folder, basis.sizes), np.load(folder / "logits.npy")


@pytest.mark.parametrize("case", CASES)
def test_merged_it_computes_what_peft_does(case: str) -> None:
    """Every family and way to say ranks and scales, in float."""
    weights, basis, adapter, expected = opened(case)
    found = reference.logits(merged(weights, basis.native(adapter.parts)), IDS)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_apart_in_the_basis_of_a_folded_base_it_does_too(case: str) -> None:
    """The stream, heads and what `down` reads are turned, and norms are in matrices."""
    weights, basis, adapter, expected = opened(case)
    folded = fold(weights, seed=3)
    parts: dict[tuple[int, str], Any] = dict(basis.placed(basis.native(adapter.parts)))

    def linear(x: Array, weight: Array, site: str) -> Array:
        x = folded.read(x, site)
        layer, _, name = site.rpartition(".")
        part = parts.pop((int(layer), name), None) if layer else None
        y = np.asarray(x @ weight.T, np.float32)
        return y if part is None else y + (x @ part.a.T) @ part.b.T

    found = reference.logits(folded.weights, IDS, linear, scaled=True)
    assert np.abs(found - expected).max() < 1e-3
    assert not parts


@pytest.mark.parametrize("case", ["llama", "qwen3", "gemma3"])
def test_the_graph_of_a_rounded_base_keeps_to_it(case: str) -> None:
    """In int8, through LiteRT: as near as the rounded base is without an adapter."""
    weights, basis, adapter, expected = opened(case)
    layout = Layout(contexts=[64], prompt=[], prefill=[], score=[16], adapters=8)
    decoder = quantize(fold(weights, seed=3))
    model, _ = build_model(decoder, layout)
    facts = facts_of(decoder, layout)
    parts = {
        key: (part.a, part.b) for key, part in basis.placed(basis.native(adapter.parts)).items()
    }
    table = decoder.embedding.restore()
    own = AdapterFacts(BundleRef("base", "1.0.0", "0" * 64), adapter.rank, adapter.targets)
    read = Adapter(encode(parts), own, facts)
    found = Runner(model, table, decoder.config, facts, adapter=read).logits(IDS)
    error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert error < 0.12, error
    plain = Runner(model, table, decoder.config, facts).logits(IDS)
    assert np.sqrt(((plain - expected) ** 2).mean() / (expected**2).mean()) > 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes adapters up to rank 4."""
    return tiny_bundle(tmp_path_factory.mktemp("base"), adapters=4)


def source_of(base: Path) -> str:
    """What the bundle was made of."""
    return str(base.parents[1] / "tiny.gguf")


def test_apart_and_merged_agree_as_int8_does(base: Path, tmp_path: Path) -> None:
    """Both are compared with the float base that has the adapter in it."""
    folder = write_adapter(tmp_path / "home", tiny_weights(), size=0.3)
    texts = AdapterTexts("Q: ", "\nA: ", 'start: "fox"')
    (folder / TEXTS).write_bytes(codec.encode(texts))
    options = AdapterOptions(weights_from=source_of(base), golden=("lazy dog",))
    apart = import_adapter(folder, base, tmp_path / "apart", options)
    whole = import_merged(folder, base, tmp_path / "merged", options)
    assert apart.fidelity is not None
    assert apart.fidelity.perplexity_float == whole.fidelity.perplexity_float
    assert apart.fidelity.agreement > whole.fidelity.agreement - 0.03
    assert abs(apart.fidelity.perplexity_change) < 0.02
    # A device asks both as they were asked in their training.
    for made in (Bundle.open(apart.bundle), Bundle.open(whole.bundle)):
        facts = made.manifest.adapter or made.manifest.generator
        assert facts is not None
        assert (facts.prompt_prefix, facts.prompt_suffix) == ("Q: ", "\nA: ")
        assert facts.grammar == texts.grammar
        assert {vector.text for vector in made.golden()} <= {"lazy dog"}


def test_its_bundle_says_whose_it_is_and_is_as_large_as_it_is(base: Path, tmp_path: Path) -> None:
    """Base, rank and matrices in the manifest; golden vectors of base and adapter together."""
    folder = write_adapter(tmp_path / "home", tiny_weights(), rank=2, targets=("q", "v"))
    (folder / TEXTS).write_bytes(codec.encode(AdapterTexts("instead: ", "!")))
    options = AdapterOptions(prompt_prefix="Q: ", golden=("the quick", "lazy dog"))
    made = import_adapter(folder, base, tmp_path / "out", options)
    bundle = Bundle.open(made.archive)
    bundle.verify()
    own = bundle.manifest.adapter
    assert own is not None
    assert own.base == Bundle.open(base).ref
    assert (own.rank, own.targets) == (2, ["q", "v"])
    assert (own.prompt_prefix, own.prompt_suffix, own.grammar) == ("Q: ", "!", None)
    weights = sum(2 * 2 * (64 + outputs) for outputs in (64, 32))
    assert weights < made.bytes < weights + 400 + 1000
    texts = {vector.text for vector in bundle.golden()}
    assert texts and texts <= {"the quick", "lazy dog"}
    again = import_adapter(folder, base, tmp_path / "again", options)
    assert Bundle.open(again.bundle).ref == bundle.ref


def refused(folder: Path, base: Path, tmp_path: Path, **options: Any) -> InputError:
    """The error of an import; nothing is left of it."""
    out = tmp_path / "refused"
    with pytest.raises(InputError) as caught:
        import_adapter(folder, base, out, AdapterOptions(**options))
    assert not out.exists() or not list(out.iterdir())
    return caught.value


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "lora_only"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
        ({"alpha_pattern": {"(a+)+b": 2}}, "(a+)+b"),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_name(
    config: dict[str, Any], named: str, base: Path, tmp_path: Path
) -> None:
    """Other kinds, parts beside the factors, and what is not known."""
    error = refused(write_adapter(tmp_path / "home", tiny_weights(), **config), base, tmp_path)
    assert error.code == "unsupported-adapter" and named in str(error)


def changed(folder: Path, **tensors: Array | None) -> Path:
    """The adapter with tensors of layer 0 changed (by the end of their names), or taken out."""
    file = folder / "adapter_model.safetensors"
    found = load_file(file)
    for end, value in tensors.items():
        name = f"base_model.model.model.layers.0.{end.replace('__', '.')}"
        found.pop(name, None)
        if value is not None:
            found[name] = value
    save_file(found, file)
    return folder


def test_a_broken_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    """Values that are no numbers, a factor that is missing, another rank, a cut file, none."""
    a = "self_attn__q_proj__lora_A__weight"
    nan = np.full((4, 64), np.nan, np.float32)
    cases: list[tuple[dict[str, Array | None], str]] = [
        ({a: nan}, "bad-adapter"),
        ({a: None}, "bad-adapter"),
        ({a: np.zeros((3, 64), np.float32)}, "bad-adapter"),
        ({a: np.zeros((4, 48), np.float32)}, "wrong-base"),
        ({"embed_tokens__lora_embedding_A": nan}, "unsupported-adapter"),
    ]
    for number, (tensors, code) in enumerate(cases):
        folder = changed(write_adapter(tmp_path / f"a{number}", tiny_weights()), **tensors)
        assert refused(folder, base, tmp_path).code == code, number
    cut = write_adapter(tmp_path / "cut", tiny_weights())
    for broken in (b"", b"[]", b'{"grammar": 1}', b'{"prompt": "x"}', b"{" * 600_000):
        (cut / TEXTS).write_bytes(broken)
        assert refused(cut, base, tmp_path).code == "bad-adapter"
    (cut / TEXTS).unlink()
    file = cut / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refused(cut, base, tmp_path).code == "bad-adapter"
    file.unlink()
    assert refused(cut, base, tmp_path).code == "no-such-file"


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    """Of another shape, of more layers, of a higher rank than it takes."""
    deep = tiny_weights()
    deep.layers.append(deep.layers[0])
    error = refused(write_adapter(tmp_path / "deep", deep), base, tmp_path)
    assert error.code == "wrong-base" and "2 layers" in str(error)
    high = write_adapter(tmp_path / "high", tiny_weights(), rank=6)
    error = refused(high, base, tmp_path)
    assert error.code == "wrong-base" and "--adapters 6" in str(error)
    fine = write_adapter(tmp_path / "fine", tiny_weights())
    other = tiny_bundle(tmp_path / "other")
    error = refused(fine, other, tmp_path)
    assert error.code == "no-adapters" and "--adapters" in str(error)
    made = import_adapter(fine, base, tmp_path / "out", AdapterOptions())
    assert refused(fine, made.bundle, tmp_path).code == "wrong-base"


def test_merging_asks_for_the_weights_that_the_base_was_made_of(base: Path, tmp_path: Path) -> None:
    """The bundle holds rounded ones; others than its own are refused."""
    fine = write_adapter(tmp_path / "fine", tiny_weights())
    with pytest.raises(InputError) as caught:
        import_merged(fine, base, tmp_path / "out", AdapterOptions())
    assert caught.value.code == "needs-weights"
    other = tmp_path / "other.gguf"
    shutil.copy(source_of(base), other)
    with other.open("ab") as file:
        file.write(b"\0" * 32)
    with pytest.raises(InputError) as caught:
        import_merged(fine, base, tmp_path / "out", AdapterOptions(weights_from=str(other)))
    assert caught.value.code == "wrong-base"


def test_the_command_imports_an_adapter_and_says_when_it_lacks_its_base(
    base: Path, tmp_path: Path
) -> None:
    """``shoal import ADAPTER --base BUNDLE``, in JSON for machines."""
    fine = write_adapter(tmp_path / "fine", tiny_weights())
    run = CliRunner()
    out = ["--out", str(tmp_path / "out"), "--json"]
    done = run.invoke(app, ["import", str(fine), "--base", str(base), *out])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["targets"] == ["q", "k", "v", "o", "gate", "up", "down"]
    done = run.invoke(app, ["import", str(fine), *out])
    assert isinstance(done.exception, InputError) and done.exception.code == "no-base"
