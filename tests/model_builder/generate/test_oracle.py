"""Imported decoders against logits that the `transformers` library computed.

The float reference and the device's graph are both of this project, so that they could share a
fault: the fixtures in ``oracle/`` are an outsider's word. ``make oracle`` makes them again.

Over 400 lines: one family after the other against the same fixtures.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from agent.runtime.model import Options
from agent.runtime.model import load as load_model
from contracts.bundle import Bundle
from contracts.errors import InputError
from model_builder.generate import reference
from model_builder.generate.fold import fold, turn_runs
from model_builder.generate.importer import ImportOptions, import_model
from model_builder.generate.in_order import quantize_in_order
from model_builder.generate.package import Layout, build_model, facts_of
from model_builder.generate.quantize import calibrate, quantize
from model_builder.generate.runner import Runner
from model_builder.generate.safetensors_source import HfFolder
from model_builder.generate.source import load_pretrained
from model_builder.generate.tflite_writer import Graph, ModelWriter

ORACLE = Path(__file__).parent / "oracle"
CASES = sorted(config.parent.name for config in ORACLE.glob("*/config.json"))
IDS = np.load(ORACLE / "ids.npy")


def folder(case: str, into: Path, config: str = "config.json", **changes: Any) -> Path:
    """A copy of a case with one of its two spellings, and keys changed; None takes one out."""
    target = into / case
    target.mkdir()
    shutil.copy(ORACLE / case / "model.safetensors", target)
    document = json.loads((ORACLE / case / config).read_text())
    for key, value in changes.items():
        if value is None:
            document.pop(key, None)
        else:
            document[key] = value
    (target / "config.json").write_text(json.dumps(document))
    return target


def logits(path: Path) -> np.ndarray:
    """What this project reads out of a folder."""
    return reference.logits(HfFolder(path).weights(), IDS)


def expected(case: str) -> np.ndarray:
    """What the library computed."""
    return np.load(ORACLE / case / "logits.npy")


@pytest.mark.parametrize("spelling", ["config.json", "config-v4.json"])
@pytest.mark.parametrize("case", CASES)
def test_float_logits_are_the_librarys(case: str, spelling: str, tmp_path: Path) -> None:
    """Every family and variant, as it is written today and as it was."""
    found = logits(folder(case, tmp_path, spelling))
    assert np.abs(found - expected(case)).max() < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_the_devices_graph_keeps_to_them(case: str, tmp_path: Path) -> None:
    """Rotated, in int8, through LiteRT: within what eight bits cost on so small a model."""
    weights = HfFolder(folder(case, tmp_path)).weights()
    layout = Layout(contexts=[64], prompt=[], prefill=[], score=[16])
    decoder = quantize(fold(weights))
    model, _ = build_model(decoder, layout)
    runner = Runner(model, decoder.embedding.restore(), decoder.config, facts_of(decoder, layout))
    found, wanted = runner.logits(IDS), expected(case)
    error = np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())
    assert error < 0.12, error
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99


def test_a_channel_that_outgrows_the_others_costs_no_more(tmp_path: Path) -> None:
    """The stream of a real Gemma has such channels, and gains of norms that make up for them."""
    weights = HfFolder(folder("gemma3", tmp_path)).weights()
    loud = np.ones(weights.config.width, np.float32)
    loud[3] = 200
    layers = [
        dataclasses.replace(
            layer,
            post_attention_norm=layer.post_attention_norm * loud,
            post_ffn_norm=layer.post_ffn_norm * loud,
            attention_norm=layer.attention_norm / loud,
            ffn_norm=layer.ffn_norm / loud,
        )
        for layer in weights.layers
    ]
    weights = dataclasses.replace(
        weights,
        embedding=weights.embedding * loud,
        layers=layers,
        final_norm=weights.final_norm / loud,
    )
    decoder = quantize(fold(weights))
    layout = Layout(contexts=[64], prompt=[], prefill=[], score=[16])
    model, _ = build_model(decoder, layout)
    # The table in float: it is what matrices read that is looked at.
    table = turn_runs(weights.embedding, decoder.stream_turn)
    runner = Runner(model, table, decoder.config, facts_of(decoder, layout))
    found, wanted = runner.logits(IDS), reference.logits(weights, IDS)
    error = np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())
    assert error < 0.12, error


@pytest.mark.parametrize("case", CASES)
def test_in_four_bits_the_graph_keeps_near(case: str, tmp_path: Path) -> None:
    """The same graph with half a byte a weight: coarser, and no other model."""
    weights = HfFolder(folder(case, tmp_path)).weights()
    layout = Layout(contexts=[64], prompt=[], prefill=[], score=[16])
    folded = fold(weights)
    decoder = quantize_in_order(folded, [IDS[:24], IDS[24:]])
    model, _ = build_model(decoder, layout)
    runner = Runner(model, decoder.embedding.restore(), decoder.config, facts_of(decoder, layout))
    found, wanted = runner.logits(IDS), expected(case)
    assert decoder.layers[0].down.bits == 4
    assert np.abs(decoder.layers[0].down.values).max() <= 8
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.8


def test_matrices_make_up_for_the_rounding_of_those_before_them(tmp_path: Path) -> None:
    """Fitted in order, four bits are nearer to the float model on text that was not fitted to."""
    errors: dict[str, list[float]] = {"at once": [], "in order": []}
    chance = np.random.default_rng(5)
    for case in ("llama", "gemma3", "smollm3"):
        weights = HfFolder(folder(case, tmp_path)).weights()
        folded = fold(weights)
        texts = [chance.integers(0, weights.config.vocabulary, 48) for _ in range(16)]
        kept = [chance.integers(0, weights.config.vocabulary, 48) for _ in range(4)]
        for name, decoder in (
            ("at once", quantize(folded, calibrate(folded, texts), bits=4)),
            ("in order", quantize_in_order(folded, texts)),
        ):
            layout = Layout(contexts=[64], prompt=[], prefill=[], score=[16])
            model, _ = build_model(decoder, layout)
            table = decoder.embedding.restore()
            runner = Runner(model, table, decoder.config, facts_of(decoder, layout))
            found = np.concatenate([runner.logits(ids) for ids in kept])
            wanted = np.concatenate([reference.logits(weights, ids) for ids in kept])
            errors[name].append(float(np.sqrt(((found - wanted) ** 2).mean() / wanted.var())))
    print(errors)
    assert np.mean(errors["in order"]) < np.mean(errors["at once"])


def test_four_bits_are_two_values_a_byte(tmp_path: Path) -> None:
    """The runtime multiplies by the values that were written, signs and order included."""
    rng = np.random.default_rng(3)
    values = rng.integers(-8, 8, (24, 32)).astype(np.int8)
    scales = rng.uniform(0.5, 2.0, 24).astype(np.float32)
    writer = ModelWriter("one product")
    weight = writer.weight(values, scales, 4)
    graph = Graph(writer)
    x = graph.input("x", (1, 32))
    writer.add(graph, "product", {"y": graph.linear(x, weight)})
    path = tmp_path / "model.tflite"
    path.write_bytes(writer.serialize())
    runner = Interpreter(str(path)).get_signature_runner("product")
    one = np.eye(32, dtype=np.float32)
    found = np.stack([runner(x=one[i : i + 1])["y"][0] for i in range(32)], 1)
    assert np.abs(found - values * scales[:, None]).max() < 0.1


def test_scales_are_written_once(tmp_path: Path) -> None:
    """However many signatures a model has; they would be a quarter of a file in four bits."""
    decoder = quantize(fold(HfFolder(folder("llama", tmp_path)).weights()), bits=4)
    layout = Layout(contexts=[16, 32, 64], prompt=[8], prefill=[8], score=[8])
    model, _ = build_model(decoder, layout)
    for site in (decoder.head, decoder.layers[1].down):
        assert model.count(site.scales.astype("<f4").tobytes()) == 1


def test_a_mask_is_written_once(tmp_path: Path) -> None:
    """However many layers a prompt goes through."""
    decoder = quantize(fold(HfFolder(folder("smollm3", tmp_path)).weights()), bits=4)
    c = decoder.config
    sizes = [
        len(build_model(decoder, Layout(contexts=[256], prompt=[t], prefill=[], score=[]))[0])
        for t in (32, 256)
    ]
    mask = c.heads // c.kv_heads * 256 * 256 * 4
    assert mask > 1 << 16 and c.layers > 2
    assert sizes[1] - sizes[0] < 1.1 * mask


# A key of each case that changes arithmetic, with another value: what is read must show.
BREAKS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "config.json", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
    ("llama", "config-v4.json", {"rope_theta": 1e4}),
    ("llama", "config-v4.json", {"rms_norm_eps": 0.05}),
    ("llama-llama3", "config-v4.json", {"rope_scaling": None}),
    ("llama-linear", "config-v4.json", {"rope_scaling": None}),
    ("llama-yarn", "config-v4.json", {"rope_scaling": None}),
    ("llama-attention-bias", "config.json", {"attention_bias": False}),
    ("llama-mlp-bias", "config.json", {"mlp_bias": False}),
    ("mistral", "config-v4.json", {"rope_theta": 1e4}),
    ("smollm3", "config.json", {"no_rope_layers": [1, 1, 1, 1]}),
    ("phi3-partial", "config-v4.json", {"partial_rotary_factor": 1.0}),
    ("phi3-longrope", "config-v4.json", {"rope_scaling": None}),
    ("granite", "config.json", {"embedding_multiplier": 1.0}),
    ("granite", "config.json", {"residual_multiplier": 1.0}),
    ("granite", "config.json", {"attention_multiplier": 1.0}),
    ("granite", "config.json", {"logits_scaling": 1.0}),
    ("qwen3-bias", "config.json", {"attention_bias": False}),
    ("olmo2", "config-v4.json", {"rope_theta": 1e4}),
    ("olmo3", "config-v4.json", {"rope_theta": 1e5}),
    ("olmo3", "config.json", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("olmo3", "config-v4.json", {"rope_scaling": None}),
    ("gemma3", "config-v4.json", {"rope_theta": 1e4}),
    ("gemma3", "config-v4.json", {"rope_scaling": None}),
    ("gemma3", "config-v4.json", {"rope_local_base_freq": 1e4}),
    ("gemma3", "config.json", {"query_pre_attn_scalar": 8}),
    ("gemma3", "config.json", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("gemma3-plain", "config-v4.json", {"sliding_window_pattern": 3}),
]


@pytest.mark.parametrize(("case", "spelling", "changes"), BREAKS)
def test_every_key_that_changes_arithmetic_is_read(
    case: str, spelling: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """A checkpoint that says something else gives something else, or is refused."""
    try:
        found = logits(folder(case, tmp_path, spelling, **changes))
    except InputError:
        return
    assert np.abs(found - expected(case)).max() > 0.01


def test_ids_and_names_that_compute_nothing_are_let_be(tmp_path: Path) -> None:
    """A checkpoint that was read from a GGUF file and saved again has them."""
    names = {"_model_name_or_path": "SmolLM2 135M", "unk_token_id": 0, "mask_token_id": 3}
    found = logits(folder("llama-tied", tmp_path, **names))
    assert np.abs(found - expected("llama-tied")).max() < 1e-3


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("llama", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar"),
    ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier"),
    ("llama", {"num_local_experts": 8}, "num_local_experts"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    (
        "phi3",
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.1}},
        "0 of 8 turn",
    ),
    ("llama", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    ("qwen3", {"no_rope_layer_interval": 2}, "no_rope_layer_interval"),
    ("llama", {"rope_scaling": {"rope_type": "ntk-of-tomorrow", "factor": 2.0}}, "differ|scaled"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "odd"}}, "scaled by 'odd'"),
    (
        "llama",
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2, "skew": 3}},
        "skew",
    ),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rotary parameters"),
    ("llama", {"rope_theta": 1e4}, "two values of rope_theta"),
    ("llama", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
    ("llama", {"architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM.*expected one of"),
    ("llama", {"architectures": None}, "expected one of"),
    ("llama", {"architectures": ["Lfm2ForCausalLM"]}, "expected one of.*convolutions"),
    ("qwen3", {"rope_parameters": {"rope_type": "default"}}, "rope_theta"),
    ("llama-tied", {"tie_word_embeddings": False}, "lacks lm_head"),
    ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3", {"hidden_activation": "silu"}, "hidden_activation"),
    ("gemma3", {"use_bidirectional_attention": True}, "causal"),
    ("gemma3", {"rope_parameters": {"rope_theta": 1e6}}, "two sets"),
    ("gemma3", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
    ("llama-attention-bias", {"attention_bias": False}, "tensor .*bias"),
]


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED)
def test_what_is_not_known_is_refused_by_name(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """No key is passed over in silence."""
    with pytest.raises(InputError, match=message):
        HfFolder(folder(case, tmp_path, **changes)).weights()


def test_what_only_says_how_it_was_trained_is_let_be(tmp_path: Path) -> None:
    """Flags that are off, and keys that change no arithmetic."""
    path = folder(
        "llama",
        tmp_path,
        use_cache=False,
        attention_dropout=0.1,
        initializer_range=0.5,
        unsloth_version="2026.1",
        use_qk_norm=False,
        some_new_flag=False,
    )
    assert np.abs(logits(path) - expected("llama")).max() < 1e-3


def test_a_tensor_that_nothing_uses_is_refused(tmp_path: Path) -> None:
    """A norm of queries in a family that has none would be left out in silence."""
    path = folder("llama", tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(8, np.float16)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(InputError, match=r"q_norm.weight, which nothing"):
        HfFolder(path).weights()


def test_tied_embeddings_with_another_head_are_refused(tmp_path: Path) -> None:
    """Releases of the library differ in which of the two they take."""
    path = folder("llama-tied", tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(InputError, match="leftover"):
        HfFolder(path).weights()


def test_a_body_without_its_name_is_the_same_model(tmp_path: Path) -> None:
    """As training scripts save it; transformers 5.24 loads it so."""
    path = folder("llama", tmp_path)
    tensors = load_file(path / "model.safetensors")
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    assert "lm_head.weight" in bare
    save_file(bare, path / "model.safetensors")
    assert np.abs(logits(path) - expected("llama")).max() < 1e-3


def test_a_body_under_another_name_is_refused(tmp_path: Path) -> None:
    """What a compiled or adapted model was saved as; transformers takes random weights."""
    path = folder("llama", tmp_path)
    tensors = load_file(path / "model.safetensors")
    renamed = {f"_orig_mod.{name}": value for name, value in tensors.items()}
    save_file(renamed, path / "model.safetensors")
    with pytest.raises(InputError, match="lacks the tensor"):
        logits(path)


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    """A stale file beside them is not read; one that is missing is named."""
    path = folder("llama", tmp_path)
    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    (path / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[:9]}
    parts["model-00002-of-00002.safetensors"] = names[9:]
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({name: tensors[name] * 0 for name in names}, path / "old.safetensors")
    assert np.abs(logits(path) - expected("llama")).max() < 1e-3
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="lacks model-00002"):
        HfFolder(path).weights()


def test_an_adapter_beside_its_base_is_refused(tmp_path: Path) -> None:
    """Its base alone is not the model that was trained."""
    path = folder("llama", tmp_path)
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter"):
        HfFolder(path)


def test_a_window_bounds_the_context(tmp_path: Path) -> None:
    """Within the window, attention to all and attention to the window are the same."""
    path = folder("mistral", tmp_path, sliding_window=32)
    assert HfFolder(path).config().trained_context == 32
    kinds = ["full_attention", "full_attention"]
    path = folder("phi3", tmp_path, sliding_window=32, layer_types=kinds)  # it reads no kinds
    assert HfFolder(path).config().trained_context == 32
    path = folder("qwen3", tmp_path, sliding_window=32, layer_types=kinds)
    assert HfFolder(path).config().trained_context == 256
    path = folder("llama-dynamic", tmp_path)
    assert HfFolder(path).config().trained_context == 256


def test_int8_weights_in_a_file_are_refused(tmp_path: Path) -> None:
    """Integers without their scales are no weights."""
    path = folder("llama", tmp_path)
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = np.rint(tensors[name] * 20).astype(np.int8)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(InputError, match="I8"):
        HfFolder(path).weights()


def with_tokenizer(path: Path, **settings: Any) -> Path:
    """The folder with a tokenizer of as many words as the model has rows for."""
    words = "the of and to a in that it is was I for on you he be with as by at".split()  # noqa: SIM905
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{w: i for i, w in enumerate(words, 3)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    "case", ["llama-llama3", "qwen3", "phi3-partial", "smollm3", "olmo2", "olmo3", "gemma3"]
)
def test_an_agent_runs_what_was_imported(case: str, tmp_path: Path) -> None:
    """Frequencies, norms of queries and layers without positions arrive on the device."""
    source = with_tokenizer(folder(case, tmp_path), bos_token="<s>", add_bos_token=True)
    options = ImportOptions(
        name="oracle",
        layout=Layout(contexts=[64], prompt=[8], prefill=[8], score=[8]),
        calibration_tokens=0,
        check_tokens=256,
        max_perplexity_change=10.0,
    )
    made = import_model(str(source), tmp_path / "out", options)
    assert made.fidelity.agreement > 0.7
    bundle = Bundle.open(made.bundle)
    model = load_model(bundle, Options())
    try:
        assert model.selftest(bundle).passed >= 1
        ids = list(IDS[:30])
        model.decoder.truncate(0)
        found = np.stack([model.decoder.step(int(i)).copy() for i in ids])
    finally:
        model.close()
    wanted = expected(case)[:30]
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99


def test_what_a_training_script_left_in_a_tokenizer_is_taken_out(tmp_path: Path) -> None:
    """Truncation and padding would cut a prompt, or lengthen it."""
    path = with_tokenizer(folder("llama", tmp_path), bos_token="<s>", eos_token="</s>")
    found = load_pretrained(str(path))
    ids = Tokenizer.from_str(found.tokenizer_json).encode("the of and to a in").ids
    assert len(ids) == 6
    assert found.bos_id is None


def test_where_an_answer_ends_is_said_in_many_places(tmp_path: Path) -> None:
    """config.json, generation_config.json and the tokenizer's own files."""
    path = with_tokenizer(
        folder("llama", tmp_path, eos_token_id=5),
        bos_token={"content": "<s>"},
        eos_token={"content": "with"},
        add_bos_token=True,
    )
    (path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    (path / "special_tokens_map.json").write_text('{"eos_token": "at"}')
    found = load_pretrained(str(path))
    tokenizer = Tokenizer.from_str(found.tokenizer_json)
    assert set(found.eos_ids) >= {
        5,
        6,
        7,
        tokenizer.token_to_id("with"),
        tokenizer.token_to_id("at"),
    }
    assert found.bos_id == 1
    (path / "generation_config.json").write_text('{"eos_token_id": 4800}')
    with pytest.raises(InputError, match="4800 is no token"):
        load_pretrained(str(path))
