"""A loaded generator: what it answers, what it refuses, and that it goes on after both.

Over 400 lines: every request goes to the same loaded generator.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from agent.generate.caches import Floats
from agent.generate.constraint import MAX_MULTIPLE, check_schema
from agent.generate.decoder import Decoder
from agent.generate.model import GenerativeModel
from agent.generate.stop import Stop
from agent.runtime import model as models
from contracts.bundle import Bundle, pack, sha256_file
from contracts.errors import InputError, RefusedError, ShoalError
from contracts.requests import ChatMessage, GenerateRequest
from contracts.template_budget import SECONDS
from tests.support.tiny_decoder import byte_fallback, tiny_tokenizer

PROMPT = "the quick brown fox jumps"


def request(**fields: object) -> GenerateRequest:
    """A request for twelve tokens after a short prompt."""
    fields.setdefault("prompt", None if "messages" in fields else PROMPT)
    fields.setdefault("max_tokens", 12)
    return GenerateRequest(**fields)  # type: ignore[arg-type]


def test_the_same_prompt_gives_the_same_greedy_text(model: GenerativeModel) -> None:
    """Greedy answers do not depend on what was computed before."""
    first = model.generate(request())
    model.generate(request(prompt="something else"))
    again = model.generate(request())
    assert (first.text, first.tokens) == (again.text, again.tokens)
    assert first.tokens == 12 and first.finish_reason == "length"


def test_the_pieces_are_the_text(model: GenerativeModel) -> None:
    """What is streamed, joined, is the text of the final message."""
    pieces: list[str] = []
    result = model.generate(request(max_tokens=25), pieces.append)
    assert "".join(pieces) == result.text
    assert len(pieces) > 1


def test_prefill_and_single_steps_fill_the_same_cache(model: GenerativeModel) -> None:
    """Logits after a prefill are those after feeding the tokens one by one."""
    ids = model.prompts.encode(PROMPT)
    assert len(ids) > 4
    for token in ids[:-1]:
        model.decoder.step(token)
    one_by_one = model.decoder.step(ids[-1]).copy()
    model.decoder.truncate(0)
    model.decoder.prefill(ids[:-1])
    at_once = model.decoder.step(ids[-1])
    # The signatures share weights but not the order of float additions.
    assert np.abs(one_by_one - at_once).max() < 0.05 * np.abs(one_by_one).max()
    assert int(one_by_one.argmax()) == int(at_once.argmax())


def test_the_cache_grows_without_changing_the_answer(model: GenerativeModel) -> None:
    """An answer that crosses from context 32 to 64 goes on as if the cache had been large."""
    model.decoder.truncate(0)
    ids = model.prompts.encode(PROMPT)
    long = model.generate(request(max_tokens=40))
    assert model.decoder.context == 64
    tokens = model.decoder.ids[len(ids) :]
    model.decoder.truncate(0)
    model.decoder.prefill(ids[:-1])
    logits = model.decoder.score([ids[-1], *tokens[:-1]])
    assert (logits.argmax(-1) == np.array(tokens)).mean() > 0.95
    assert long.tokens == 40


def test_a_seed_repeats_a_sampled_text(model: GenerativeModel) -> None:
    """The same seed gives the same text, another one another."""
    options = {"temperature": 1.5, "max_tokens": 20}
    first = model.generate(request(seed=1, **options)).text
    assert model.generate(request(seed=1, **options)).text == first
    assert model.generate(request(seed=2, **options)).text != first


@pytest.fixture
def reused(model: GenerativeModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each run did not have to compute again."""
    counts: list[int] = []
    prepare = model.prefixes.prepare

    def counted(decoder: Decoder, ids: list[int]) -> int:
        counts.append(prepare(decoder, ids))
        return counts[-1]

    monkeypatch.setattr(model.prefixes, "prepare", counted)
    return counts


def test_a_chat_computes_its_shared_beginning_once(
    model: GenerativeModel, reused: list[int]
) -> None:
    """A second chat with the same system prompt starts from the kept keys and values."""
    system = ChatMessage("system", "be brief")
    fresh = model.generate(request(messages=[system, ChatMessage("user", "a")], max_tokens=4))
    model.generate(request(prompt="dog dog dog", max_tokens=3))
    again = model.generate(request(messages=[system, ChatMessage("user", "a")], max_tokens=4))
    assert reused[-1] > 8
    assert again.text == fresh.text


def test_a_session_goes_on_where_it_was(model: GenerativeModel, reused: list[int]) -> None:
    """The second turn of a session computes only what is new."""
    turns = [ChatMessage("user", "the lazy dog jumps over")]
    first = model.generate(request(messages=turns, session="a", max_tokens=6))
    model.generate(request(prompt="value value value value", max_tokens=2))
    turns += [ChatMessage("assistant", "x"), ChatMessage("user", "b")]
    model.generate(request(messages=turns, session="a", max_tokens=4))
    assert reused[-1] >= 8
    assert first.finish_reason == "length"


def test_snapshots_stay_within_their_budget(model: GenerativeModel) -> None:
    """Many sessions do not hold more memory than the budget."""
    budget = model.decoder.bytes_of(40)
    model.prefixes._budget = budget
    try:
        for name in "abcdefgh":
            model.generate(request(prompt=f"{name} quick brown fox", session=name, max_tokens=6))
            assert model.prefixes.nbytes <= budget
        assert 1 <= len(model.prefixes) < 8
    finally:
        model.prefixes._budget = 32 << 20


def test_logprobs_come_best_first_and_are_probabilities(model: GenerativeModel) -> None:
    """Each token has its most likely alternatives with logarithms that sum to one at most."""
    result = model.generate(request(logprobs=5, max_tokens=3))
    assert len(result.logprobs) == 3
    for row in result.logprobs:
        values = [value for _, value in row]
        assert values == sorted(values, reverse=True) and len(values) == 5
        assert sum(np.exp(values)) <= 1 + 1e-6


def test_json_output_validates(model: GenerativeModel) -> None:
    """A random model can only write what the schema allows."""
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "room": {"enum": ["hall", "attic"]}},
        "required": ["on", "room"],
        "additionalProperties": False,
    }
    for seed in range(4):
        result = model.generate(
            request(json_schema=schema, max_tokens=48, temperature=1.0, seed=seed)
        )
        value = json.loads(result.text)
        assert isinstance(value["on"], bool) and value["room"] in ("hall", "attic")
        assert result.finish_reason == "stop"


def test_what_is_copied_out_of_a_prompt_is_valid_json(
    model: GenerativeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes, backslashes and control characters of a prompt cannot end or break a string."""
    grammar = 'start: "{\\"a\\":\\"" value "\\"}"\nvalue: %regex { "substring_words": @PROMPT@ }\n'
    monkeypatch.setattr(model, "facts", msgspec.structs.replace(model.facts, grammar=grammar))
    for seed in range(30):
        said = 'x","a":"y \\ \x01 \n "'
        result = model.generate(request(prompt=said, temperature=2.0, seed=seed, max_tokens=40))
        assert set(json.loads(result.text)["a"]) <= set("xay,: ")


def test_a_regex_holds(model: GenerativeModel) -> None:
    """The whole output matches the pattern."""
    assert model.generate(request(regex="(yes|no)!", max_tokens=20)).text in ("yes!", "no!")


def test_a_budget_that_ends_within_the_constraint_is_an_error(model: GenerativeModel) -> None:
    """Half a JSON document is never an answer."""
    with pytest.raises(RefusedError) as raised:
        model.generate(request(regex="[a-z]{40}", max_tokens=3))
    assert raised.value.code == "budget-ended"


def _deep(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": _deep(200)},
        {"json_schema": {"enum": [str(i) for i in range(20_000)]}},
        {"json_schema": {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"}},
        {"json_schema": {"$ref": "#/nowhere"}},
        {"json_schema": {"type": "nonsense"}},
        {"json_schema": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
        {"regex": "("},
        {"regex": "(a{2000}){2000}"},
        {"regex": "a{1000000,}"},
        {"regex": "[^\\s\\S]"},
        {"regex": "(" * 2000 + "a" + ")" * 2000},
        {"json_schema": _deep(10_000)},
        {"json_schema": {"enum": list(range(1_000_000))}},
        {"json_schema": {"$ref": "#"}},
        {"json_schema": {"$ref": "http://127.0.0.1:9/schema.json"}},
        {"json_schema": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}},
        {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
        {"json_schema": {"type": "string", "minLength": 10**9}},
        {"json_schema": {"type": "string", "minLength": 2**63}},
        {"json_schema": {"type": "array", "minItems": 10**9}},
        {"json_schema": {"type": "integer", "minimum": 5, "maximum": 4}},
        {"json_schema": {"type": "number", "minimum": float("nan")}},
        {"json_schema": {"type": "string", "pattern": "^a$", "minLength": 4}},
        {"json_schema": {"enum": ["\ud800"]}},
        {"json_schema": {"type": "integer", "multipleOf": 0}},
        {"json_schema": {"type": "number", "multipleOf": float("inf")}},
        {"json_schema": {"type": "number", "multipleOf": "3"}},
        {"json_schema": {"type": "number", "multipleOf": True}},
        {"json_schema": {"type": "integer", "minimum": -(2**63), "maximum": 2**63}},
        {"json_schema": {"type": "integer", "minimum": 1 << 20_000}},
        {"json_schema": {"type": "number", "minimum": 5e-324}},
        {"json_schema": {"type": "number", "exclusiveMaximum": -1e308}},
        {"json_schema": {"allOf": [{"anyOf": [{"minimum": i} for i in range(20)]}] * 20}},
        {"regex": "a", "json_schema": {}},
    ],
)
def test_a_constraint_that_cannot_be_used_is_refused(
    model: GenerativeModel, fields: dict[str, object]
) -> None:
    """A malicious or impossible constraint is one clear error, and the next request works."""
    with pytest.raises(ShoalError) as raised:
        model.generate(request(**fields))
    assert raised.value.code in ("bad-constraint", "constraint-failed", "budget-ended")
    assert "\n" not in str(raised.value)
    assert model.generate(request(max_tokens=1)).tokens == 1


BOMB = {"type": "integer", "allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 99_999_999},
        {"type": "number", "multipleOf": 999999.99},
        BOMB,
        {"type": "number", "allOf": [{"multipleOf": 9973}, {"multipleOf": 1e-9}]},
        {"type": "integer", "multipleOf": 1 << 20_000},
        {"type": "number", "multipleOf": 1e308},
        *(
            # Wherever it stands, used or not, what is no divisor does not hide the bomb.
            {"anyOf": [BOMB], place: {"x": {"multipleOf": value}}}
            for place in ("$defs", "patternProperties", "if", "not")
            for value in (0, 0.0, -0.0, -1, -0.5, float("nan"), 1e-300, 5e-324, float("inf"))
        ),
    ],
)
def test_multiples_that_would_not_end_are_refused_before_llguidance(
    schema: dict[str, object],
) -> None:
    """Their automaton of remainders would have about a hundred million states."""
    with pytest.raises(InputError, match="multiple") as raised:
        check_schema(schema)
    assert raised.value.code == "bad-constraint"


@pytest.mark.parametrize("value", [0, 0.0, -3, -1e-5, -(10**40), float("nan"), 1e-10, 1e-300])
def test_what_no_number_is_a_multiple_of_is_refused(value: float) -> None:
    """JSON Schema demands a number above 0; one with endless decimals is none that was meant."""
    with pytest.raises(InputError, match="multipleOf") as raised:
        check_schema({"multipleOf": value})
    assert raised.value.code == "bad-constraint"


def test_multiples_that_pass_have_few_remainders() -> None:
    """Counted apart, in fractions: no pair that is let through has more than the cap."""
    values = (1e-9, 0.0025, 0.1, 0.3, 0.7, 1, 2.5, 7, 97, 100, 101, 9999, 1e4, 0, -7)
    passed = 0
    for pair in itertools.product(values, repeat=2):
        try:
            check_schema({"allOf": [{"multipleOf": value} for value in pair]})
        except InputError:
            continue
        exact = [Fraction(str(value)) for value in pair]
        units = math.lcm(*(value.denominator for value in exact))
        assert 0 < math.lcm(*(int(value * units) for value in exact)) <= MAX_MULTIPLE, pair
        passed += 1
    assert passed > len(values)


def test_a_property_may_have_the_name_of_the_keyword() -> None:
    """Its schema is no number, and no error."""
    check_schema({"type": "object", "properties": {"multipleOf": {"type": "string"}}})


def test_usual_multiples_stand_in_one_schema() -> None:
    """Money, quarters, minutes and tens together are no bomb."""
    check_schema({"prefixItems": [{"multipleOf": n} for n in (0.01, 0.25, 5, 10, 60)]})


_BOMBS = """
import json, resource, sys
from pathlib import Path
from agent.generate.model import GenerativeModel
from contracts.bundle import Bundle
from contracts.errors import ShoalError
from contracts.requests import GenerateRequest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

model = GenerativeModel(Bundle.open(Path(sys.argv[1])))
model.generate(GenerateRequest(prompt="a", regex="ab", max_tokens=8))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
bombs = []
for pattern in ("(a{1000}){1000}", "((a{100}){100}){100}"):
    bombs += [{"regex": pattern}, {"json_schema": {"type": "string", "pattern": pattern}}]
parts = [{"type": "integer", "minimum": n, "multipleOf": 9973} for n in range(200)]
names = [f"p{n}" for n in range(200)]
for schema in (
    {"type": "object", "properties": dict(zip(names, parts)), "required": names},
    {"type": "array", "prefixItems": parts, "minItems": 200},
    {"allOf": [{"anyOf": parts[n : n + 10]} for n in range(0, 80, 10)]},
    {"type": "integer", "minimum": 10**17 + 1, "maximum": 9 * 10**17, "multipleOf": 9973},
):
    bombs.append({"json_schema": schema})
grown = []
for fields in bombs:
    before = peak()
    try:
        model.generate(GenerateRequest(prompt="a", max_tokens=20, **fields))
    except ShoalError:
        grown.append(peak() - before)
print(json.dumps(grown))
"""


def test_bombs_take_little_memory(bundle_path: Path) -> None:
    """The compiler's own limits hold for what no cap on a schema can see."""
    done = subprocess.run(
        [sys.executable, "-c", _BOMBS, str(bundle_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert len(grown) == 8
    assert max(grown) < 40, f"grew by MB: {grown}"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": ""}, "empty-prompt"),
        ({"prompt": "\ud800"}, "bad-text"),
        ({"prompt": "fox " * 200}, "prompt-too-long"),
        ({"messages": []}, "bad-messages"),
        ({"prompt": "a", "messages": [ChatMessage("user", "a")]}, "bad-message"),
    ],
)
def test_bad_prompts_are_refused_by_name(
    model: GenerativeModel, fields: dict[str, object], code: str
) -> None:
    """What cannot be answered says why, and the model goes on serving."""
    with pytest.raises(InputError) as raised:
        model.generate(request(**fields))
    assert raised.value.code == code
    assert model.generate(request(max_tokens=1)).tokens == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1e-9},
        {"temperature": 10.0, "top_k": 1_000_000, "top_p": 1e-9, "min_p": 1.0},
        {"temperature": 1.0, "repetition_penalty": 10.0},
        {"temperature": 1.0, "repetition_penalty": 1e-3, "top_k": 1},
        {"temperature": 1e-320},
        {"repetition_penalty": 1e-300},
        {"temperature": 1.0, "repetition_penalty": 1e-40},
    ],
)
def test_absurd_sampling_still_samples(model: GenerativeModel, fields: dict[str, object]) -> None:
    """The extremes that the protocol allows give tokens, not numeric errors."""
    assert model.generate(request(seed=1, **fields)).tokens == 12


@pytest.mark.parametrize("path", ["bundle_path", "float_bundle_path"])
def test_what_is_no_number_fails_one_request_and_spoils_no_other(
    path: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step leaves NaN among the keys: that request fails, and nothing of it is kept."""
    model = GenerativeModel(Bundle.open(request.getfixturevalue(path)))
    asked = GenerateRequest(prompt=PROMPT, max_tokens=12)
    good = model.generate(asked).text
    run, steps = model.decoder._engine.run, itertools.count()

    def breaks(signature: str) -> dict[str, Floats]:
        outputs = run(signature)
        if next(steps) == 4:
            outputs["new"][0] = np.nan
        return outputs

    monkeypatch.setattr(model.decoder._engine, "run", breaks)
    for _ in range(2):  # the second is greedy too, and shares the beginning
        with warnings.catch_warnings(), pytest.raises(RefusedError) as raised:
            warnings.simplefilter("ignore", RuntimeWarning)
            model.generate(GenerateRequest(prompt="a b c", max_tokens=12, session="s"))
        assert raised.value.code == "model-failed"
        assert model.generate(asked).text == good
        steps = itertools.count()
    model.close()


def test_time_ends_an_answer(model: GenerativeModel) -> None:
    """`max_time_ms` ends the answer with what there is."""
    clock = iter(range(1, 10_000))
    kept, model._clock = model._clock, lambda: next(clock) * 0.01
    try:
        result = model.generate(request(max_tokens=50, max_time_ms=200))
    finally:
        model._clock = kept
    assert result.finish_reason == "time"
    assert 0 < result.tokens < 50


def test_a_cancel_between_tokens_ends_the_answer(model: GenerativeModel) -> None:
    """The totals say what was generated until the cancel."""
    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise Stop("cancelled")

    result = model.generate(request(max_tokens=50), checkpoint=checkpoint)
    assert result.finish_reason == "cancelled"
    assert 0 < result.tokens < 50


def test_a_stop_string_ends_the_answer_before_it(model: GenerativeModel) -> None:
    """The text before a stop string is the answer; the string is not part of it."""
    whole = model.generate(request(max_tokens=30)).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    result = model.generate(request(max_tokens=30, stop=[stop]))
    assert result.text == whole[: whole.index(stop)]
    assert result.finish_reason == "stop"


@pytest.mark.parametrize("runtime", ["litert", "litert-interpreter"])
def test_the_golden_vectors_hold_in_every_runtime(bundle_path: Path, runtime: str) -> None:
    """The bundle's own expectations hold through both ways to run it."""
    bundle = Bundle.open(bundle_path)
    result = models.selftest(bundle, models.Options(runtime=runtime))
    assert result.passed == result.vectors >= 1


def test_a_packed_bundle_runs(bundle_path: Path, tmp_path: Path, model: GenerativeModel) -> None:
    """A `.shoal` file answers like its folder."""
    archive = tmp_path / "tiny.shoal"
    pack(bundle_path, archive)
    packed = GenerativeModel(Bundle.open(archive))
    try:
        assert packed.generate(request()).text == model.generate(request()).text
    finally:
        packed.close()


def test_a_damaged_embedding_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    """A flipped byte in the table is found before the model answers."""
    folder = tmp_path / "copy"
    Bundle.open(bundle_path).extract(folder)
    data = bytearray((folder / "embedding.bin").read_bytes())
    data[100] ^= 1
    (folder / "embedding.bin").write_bytes(bytes(data))
    with pytest.raises(InputError) as raised:
        GenerativeModel(Bundle.open(folder))
    assert raised.value.code == "bundle-corrupt"


def test_the_weight_cache_is_written_beside_and_used(bundle_path: Path, tmp_path: Path) -> None:
    """A second load with the cache file gives the same text."""
    cache = tmp_path / "weights"
    texts = []
    for _ in range(2):
        loaded = GenerativeModel(Bundle.open(bundle_path), models.Options(cache=cache))
        texts.append(loaded.generate(request()).text)
        loaded.close()
        assert cache.stat().st_size > 0
    assert texts[0] == texts[1]


def test_a_short_text_after_a_long_one_has_a_small_cache(model: GenerativeModel) -> None:
    """The cache does not stay large, and the answer is that of a fresh model."""
    fresh = model.generate(request())
    small = model.decoder.context
    model.generate(request(max_tokens=40))
    assert model.decoder.context > small
    again = model.generate(request())
    assert (model.decoder.context, again.text) == (small, fresh.text)


def test_a_broken_tokenizer_is_refused_before_a_request(bundle_path: Path, tmp_path: Path) -> None:
    """The tokenizer is loaded late, but a model that was warmed up has one that works."""
    folder = tmp_path / "broken"
    shutil.copytree(bundle_path, folder)
    (folder / "tokenizer.json").write_text('{"model": 1}')
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == "tokenizer.json":
            entry["size"] = (folder / "tokenizer.json").stat().st_size
            entry["sha256"] = sha256_file(folder / "tokenizer.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    broken = GenerativeModel(Bundle.open(folder))
    try:
        with pytest.raises(RefusedError) as raised:
            broken.warm_up()
    finally:
        broken.close()
    assert raised.value.code == "bad-tokenizer"


def test_a_hostile_chat_template_costs_one_request(bundle_path: Path, tmp_path: Path) -> None:
    """A chat ends with an error, the next prompt is answered, and so on."""
    folder = tmp_path / "hostile"
    shutil.copytree(bundle_path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    loops = "{% for i in range(4000) %}" * 4 + "{% endfor %}" * 4
    manifest["front_end"]["chat_template"] = loops
    (folder / "manifest.json").write_text(json.dumps(manifest))
    model = GenerativeModel(Bundle.open(folder))
    try:
        model.warm_up()
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(InputError) as raised:
                model.generate(request(messages=[ChatMessage("user", "hello")]))
            assert raised.value.code == "bad-template"
            assert time.monotonic() - started < 2 * SECONDS
            assert model.generate(request()).tokens == 12
    finally:
        model.close()


def test_confidence_is_the_mean_probability_of_what_was_said(model: GenerativeModel) -> None:
    """The figure is that of the tokens' log-probabilities, and asking for it changes no text."""
    plain = model.generate(request())
    pieces: list[str] = []
    found = model.generate(request(min_confidence=0.0, logprobs=1), pieces.append)
    assert found.confidence is not None and plain.confidence is None
    mean = math.exp(sum(p for _, p in found.chosen) / len(found.chosen))
    assert found.confidence == pytest.approx(mean, abs=1e-4)
    assert (found.text, "".join(pieces)) == (plain.text, plain.text)
    assert not found.unknown and found.best == ""


def test_an_answer_below_the_asked_confidence_is_unknown(model: GenerativeModel) -> None:
    """Nothing of it is streamed; what would have been said stands beside it."""
    plain = model.generate(request(min_confidence=0.0))
    assert plain.confidence is not None and plain.confidence < 0.99
    pieces: list[str] = []
    found = model.generate(request(min_confidence=0.99, logprobs=1), pieces.append)
    assert (found.text, found.unknown, found.best) == ("", True, plain.text)
    assert found.confidence == plain.confidence
    assert pieces == [] and found.chosen == [] and found.logprobs == []


def test_an_answer_that_is_sure_enough_comes_in_one_piece(model: GenerativeModel) -> None:
    """Text is held until the last token is judged."""
    least = model.generate(request(min_confidence=0.0)).confidence
    pieces: list[str] = []
    found = model.generate(request(min_confidence=least), pieces.append)
    assert pieces == [found.text] and not found.unknown


def test_a_calibrated_bundle_tells_the_chance(
    bundle_path: Path, tmp_path: Path, model: GenerativeModel
) -> None:
    """`min_confidence` is then of the chance; a form of the request's own was not calibrated."""
    plain = model.generate(request(min_confidence=0.0))
    assert plain.confidence is not None and not plain.calibrated
    folder = tmp_path / "calibrated"
    shutil.copytree(bundle_path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["generator"]["calibration"] = [[0.0, 0.25], [1.0, 0.75]]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    calibrated = GenerativeModel(Bundle.open(folder))
    try:
        found = calibrated.generate(request(min_confidence=0.0))
        assert found.text == plain.text and found.calibrated
        assert found.confidence == pytest.approx(0.25 + plain.confidence / 2, abs=1e-4)
        low = calibrated.generate(request(min_confidence=found.confidence + 0.01))
        assert low.unknown and low.calibrated and low.best == plain.text
        own = request(min_confidence=0.0, regex="[a-z ]{20}")
        free = calibrated.generate(own)
        assert not free.calibrated and free.confidence == model.generate(own).confidence
        assert calibrated.generate(request()).confidence is None
    finally:
        calibrated.close()
    manifest["generator"]["calibration"] = [[0.5, 0.25], [0.5, 0.75]]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="calibration") as raised:
        GenerativeModel(Bundle.open(folder))
    assert raised.value.code == "bad-manifest"


@pytest.mark.parametrize(
    "tokenizer", [tiny_tokenizer(), byte_fallback()], ids=["level", "fallback"]
)
def test_a_token_that_is_part_of_a_character_is_told_by_its_bytes(
    tokenizer: Tokenizer, model: GenerativeModel
) -> None:
    """Put together they are the text, blanks included."""
    prompts = copy.copy(model.prompts)
    prompts.__dict__["_tokenizer"] = tokenizer
    text = "a 語🙂 b\u00e9"
    ids = tokenizer.encode(text).ids
    shown = [prompts.shown(token, first=not at) for at, token in enumerate(ids)]
    assert sum(one.startswith("bytes:") for one in shown) >= 7
    data = [
        bytes.fromhex(one[6:].replace("\\x", "")) if one.startswith("bytes:") else one.encode()
        for one in shown
    ]
    assert b"".join(data).decode() == text == tokenizer.decode(ids)
