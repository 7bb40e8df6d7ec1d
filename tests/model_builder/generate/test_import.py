"""Import: every source gives the same decoder, and what is broken is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError
from contracts.manifest import TokenizerFrontEnd
from model_builder.generate import importer, reference
from model_builder.generate.fidelity import Fidelity
from model_builder.generate.importer import ImportOptions, import_model
from model_builder.generate.package import Layout
from model_builder.generate.source import load_pretrained
from model_builder.generate.tokenizer import slim
from tests.support.tiny_decoder import tiny_tokenizer, tiny_weights, write_folder, write_gguf

KIND = gguf.GGMLQuantizationType
LAYOUT = Layout(contexts=[64], prompt=[], prefill=[8])
IDS = np.arange(5, 45)


def quick(**changes: object) -> ImportOptions:
    """Options for a small, fast import."""
    fields = {"layout": LAYOUT, "calibration_tokens": 512, "check_tokens": 256}
    return ImportOptions(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [False, True], ids=["llama", "qwen2"])
def test_gguf_and_safetensors_give_the_same_logits(tmp_path: Path, bias: bool) -> None:
    """The rotary layout, biases and an untied head survive both formats."""
    weights = tiny_weights(bias=bias, tied=not bias)
    expected = reference.logits(weights, IDS)
    architecture = "qwen2" if bias else "llama"
    file = write_gguf(tmp_path / "m.gguf", weights, tiny_tokenizer(), architecture=architecture)
    folder = write_folder(tmp_path / "hf", weights, tiny_tokenizer())
    for source in (file, folder):
        loaded = load_pretrained(str(source))
        assert np.allclose(reference.logits(loaded.weights, IDS), expected, atol=1e-4)
        assert loaded.chat_template and loaded.eos_ids == [0]


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(KIND.F16, 0.001), (KIND.Q8_0, 0.02), (KIND.Q4_0, 0.2), (KIND.Q4_1, 0.2), (KIND.BF16, 0.01)],
    ids=lambda value: getattr(value, "name", None),
)
def test_quantised_gguf_tensors_are_read(tmp_path: Path, kind: KIND, tolerance: float) -> None:
    """Dequantised matrices are as near to the source as their format allows."""
    weights = tiny_weights()
    file = write_gguf(tmp_path / "m.gguf", weights, tiny_tokenizer(), kind=kind)
    loaded = load_pretrained(str(file)).weights
    error = np.abs(loaded.layers[1].gate - weights.layers[1].gate).max()
    assert error <= tolerance * np.abs(weights.layers[1].gate).max()


@pytest.mark.parametrize("bias", [False, True], ids=["llama", "qwen2"])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_converted_model_follows_the_reference(
    tmp_path: Path, bias: bool, rotate: bool
) -> None:
    """The import's own check, on a real conversion: near in perplexity and in the best token."""
    source = write_gguf(
        tmp_path / "m.gguf",
        tiny_weights(bias=bias),
        tiny_tokenizer(),
        architecture="qwen2" if bias else "llama",
    )
    made = import_model(str(source), tmp_path / "out", quick(rotate=rotate))
    assert made.fidelity.tokens == 256
    assert abs(made.fidelity.perplexity_change) < 0.02
    assert made.fidelity.agreement > 0.9
    bundle = Bundle.open(made.archive)
    bundle.verify()
    assert bundle.manifest.generator is not None
    assert bundle.manifest.generator.contexts == [64]
    assert json.loads(made.report.read_text())["fidelity"]["tokens"] == 256


def test_four_bits_are_asked_for_and_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int4 halves the matrices and says what it cost; auto takes it only where it costs little."""
    file = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())
    whole = import_model(str(file), tmp_path / "int8", quick(name="a"))
    half = import_model(
        str(file), tmp_path / "int4", quick(name="a", weights="int4", max_perplexity_change=9.0)
    )
    facts = [Bundle.open(made.bundle).manifest for made in (whole, half)]
    assert [m.model.quantization for m in facts] == ["dynamic-int8", "dynamic-int4"]
    assert facts[1].metrics["fidelity"]["weights"] == "int4"
    sizes = [next(f.size for f in m.files if f.path == m.model.file) for m in facts]
    assert sizes[1] < sizes[0]
    auto = quick(name="a", weights="auto", max_perplexity_change=9.0)
    assert import_model(str(file), tmp_path / "auto", auto).fidelity.weights == "int4"
    costs = {"int4": 0.06, "int8": 0.01}

    def costly(*args: Any) -> Fidelity:
        bits = args[2].head.bits
        return msgspec.structs.replace(
            half.fidelity, perplexity_change=costs["int4" if bits == 4 else "int8"]
        )

    monkeypatch.setattr(importer, "check", costly)
    near = quick(name="a", weights="auto")
    assert import_model(str(file), tmp_path / "near", near).fidelity.weights == "int8"
    costs["int4"] = 0.04
    assert import_model(str(file), tmp_path / "near", near).fidelity.weights == "int4"
    with pytest.raises(RefusedError, match="--weights int8 keeps nearer"):
        import_model(
            str(file),
            tmp_path / "none",
            quick(name="a", weights="int4", max_perplexity_change=-1.0),
        )


def test_a_wrong_conversion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is not its source never becomes a bundle."""
    source = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())

    def shifted(matrix: Any, scales: Any, bits: int) -> Any:
        return np.roll(np.rint(matrix / scales[:, None]), 1, 0).astype(np.int8)

    monkeypatch.setattr("model_builder.generate.quantize.nearest", shifted)
    with pytest.raises(RefusedError) as raised:
        import_model(str(source), tmp_path / "out", quick(calibration_tokens=0))
    assert raised.value.code == "fidelity"
    assert not (tmp_path / "out").exists()


def test_an_import_tells_how_far_it_is(tmp_path: Path) -> None:
    """Every stage is told of, in order, until all of it is done."""
    source = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())
    told: dict[str, list[tuple[int, int]]] = {}
    import_model(
        str(source),
        tmp_path / "out",
        quick(),
        lambda what, done, total: told.setdefault(what, []).append((done, total)),
    )
    assert list(told) == ["loading", "calibrating", "quantising", "comparing", "writing"]
    assert all(steps == sorted(steps) for steps in told.values())
    assert all(steps[-1][0] == steps[-1][1] for steps in told.values())
    assert len(told["quantising"]) == tiny_weights().config.layers


def test_the_same_import_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two imports of one source differ in nothing that was computed from it."""
    source = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())
    bundles = [
        Bundle.open(import_model(str(source), tmp_path / name, quick()).bundle)
        for name in ("a", "b")
    ]
    assert bundles[0].manifest.files == bundles[1].manifest.files


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    """A download that broke off anywhere is refused, without a traceback of the reader."""
    whole = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer()).read_bytes()
    broken = tmp_path / "broken.gguf"
    cuts = [0, 3, 10, 23, 24, 100, 1000, 5000, len(whole) // 2, len(whole) - 1]
    for cut in cuts:
        broken.write_bytes(whole[:cut])
        with pytest.raises(InputError) as raised:
            load_pretrained(str(broken))
        assert raised.value.code in ("not-gguf", "bad-weights")


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    """Damage in the header is an input error, or reads as other values; nothing else."""
    whole = bytearray(
        write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer()).read_bytes()
    )
    broken = tmp_path / "broken.gguf"
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for position in rng.integers(0, 2000, 3):
            damaged[position] = int(rng.integers(0, 256))
        broken.write_bytes(bytes(damaged))
        try:
            load_pretrained(str(broken))
        except ShoalError as error:
            assert error.exit_code == 2


def test_absurd_counts_are_refused_before_they_are_looped_over(tmp_path: Path) -> None:
    """A header that promises 2**60 tensors costs nothing."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 4) + bytes(64))
    with pytest.raises(InputError, match="tensors"):
        load_pretrained(str(path))


def test_a_folder_of_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    """As a download leaves it; of several files somebody has to name one."""
    file = write_gguf(tmp_path / "a.gguf", tiny_weights(), tiny_tokenizer())
    assert load_pretrained(str(tmp_path)).sha256 == load_pretrained(str(file)).sha256
    (tmp_path / "b.gguf").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"name one of a\.gguf, b\.gguf"):
        load_pretrained(str(tmp_path))


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    """The error says what was found and what is known."""
    path = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer(), architecture="mamba")
    with pytest.raises(InputError, match="mamba"):
        load_pretrained(str(path))
    path = write_gguf(tmp_path / "l.gguf", tiny_weights(), tiny_tokenizer(), architecture="lfm2")
    with pytest.raises(InputError, match=r"lfm2.*convolutions"):
        load_pretrained(str(path))


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    """One nan in a matrix is found on import."""
    weights = tiny_weights()
    weights.layers[0].up[3, 4] = np.nan
    path = write_gguf(tmp_path / "m.gguf", weights, tiny_tokenizer())
    with pytest.raises(InputError, match="finite"):
        load_pretrained(str(path))


def test_the_command_prints_one_json_line(tmp_path: Path) -> None:
    """`import` names what it made; a wrong source exits with the error."""
    from model_builder.cli import app

    source = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())
    arguments = ["import", str(source), "--out", str(tmp_path / "out"), "--contexts", "64"]
    arguments += ["--prompt", "", "--prefill", "8", "--check-tokens", "64", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--calibration-tokens", "0"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["fidelity"]["tokens"] == 64
    missing = CliRunner().invoke(app, ["import", str(tmp_path / "none.gguf")])
    assert isinstance(missing.exception, InputError)


def test_a_slim_tokenizer_is_the_same_tokenizer() -> None:
    """Merges become lines; texts become the same tokens."""
    tokenizer = tiny_tokenizer()
    written = slim(tokenizer.to_str())
    assert isinstance(json.loads(written)["model"]["merges"][0], str)
    read = Tokenizer.from_str(written)
    for text in ("the quick brown fox", "<|end|>", " spaces  and\nlines", "größer 12 🦊"):
        assert read.encode(text).ids == tokenizer.encode(text).ids
        assert read.decode(read.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)
    assert slim(written) == written


@pytest.mark.parametrize("pair", [["a b", "c"], ["#version", "c"]])
def test_merges_that_lines_cannot_say_stay_pairs(pair: list[str]) -> None:
    """A space within a token would end it, and a header is skipped."""
    text = json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": [pair]}})
    assert slim(text) == text


BROKEN_TEMPLATES = {
    "does not compile": ("ok\n{% if %}", "line 2"),
    "fails on a message": ("\n\n{{ messages[0].name.first }}", "line 3"),
    "refuses a message": ("{{ raise_exception('nobody may talk') }}", "nobody may talk"),
    "fails on the second turn": (
        "\n{{ 1 // (2 - messages|length) and messages[2].x.y }}",
        "line 2",
    ),
    "uses what is not there": ("{{ messages | pprint }}", "pprint"),
    "is too long": ("a" * 40_000, "40000 characters"),
    "goes on for ever": ("{% for i in range(4000) %}" * 4 + "{% endfor %}" * 4, "too much"),
}


@pytest.mark.parametrize("fault", BROKEN_TEMPLATES)
@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_a_chat_template_that_cannot_be_used_is_refused(
    tmp_path: Path, fault: str, kind: str
) -> None:
    """At import, where someone can do something about it, and before anything is computed."""
    template, said = BROKEN_TEMPLATES[fault]
    if kind == "gguf":
        source = write_gguf(tmp_path / "m", tiny_weights(), tiny_tokenizer(), template=template)
    else:
        source = write_folder(tmp_path / "m", tiny_weights(), tiny_tokenizer())
        (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    stages: set[str] = set()
    with pytest.raises(InputError, match=said) as raised:
        import_model(
            str(source), tmp_path / "out", quick(), lambda what, done, total: stages.add(what)
        )
    assert raised.value.code == "bad-template"
    assert "--chat-template none" in str(raised.value)
    assert stages == {"loading"}
    assert not (tmp_path / "out").exists()


def test_a_template_can_be_replaced_or_left_out(tmp_path: Path) -> None:
    """A model whose template is of no use is of use all the same."""
    source = write_gguf(tmp_path / "m", tiny_weights(), tiny_tokenizer(), template="{% if %}")
    other = tmp_path / "other.jinja"
    other.write_text("{{ messages[-1].content }}!")
    for given, expected in ((str(other), other.read_text()), ("none", None)):
        made = import_model(str(source), tmp_path / "out", quick(chat_template=given))
        front = Bundle.open(made.bundle).manifest.front_end
        assert isinstance(front, TokenizerFrontEnd)
        assert front.chat_template == expected
    other.write_bytes(b"\xff")
    for wrong, code in ((other, "bad-template"), (tmp_path / "nothing", "no-such-file")):
        with pytest.raises(InputError) as raised:
            import_model(str(source), tmp_path / "out", quick(chat_template=str(wrong)))
        assert raised.value.code == code


@pytest.mark.parametrize(
    ("changes", "out", "code"),
    [
        ({"name": "No Name!"}, "out", "bad-option"),
        ({"version": "one"}, "out", "bad-option"),
        ({}, "m.gguf", "bad-folder"),
        ({}, "m.gguf/out", "bad-folder"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], out: str, code: str
) -> None:
    """Not after minutes of quantising, and with nothing half made."""
    source = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())
    stages: set[str] = set()
    with pytest.raises(InputError) as raised:
        import_model(
            str(source), tmp_path / out, quick(**changes), lambda what, *_: stages.add(what)
        )
    assert raised.value.code == code
    assert not stages
    assert list(tmp_path.iterdir()) == [source]
