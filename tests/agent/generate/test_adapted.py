"""Adapters of a loaded generator: each answers as itself, and the base as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.generate.adapted import AdaptedModel, load
from agent.generate.model import GenerativeModel
from agent.runtime import model as models
from agent.runtime.model import Options
from agent.serving.models import Models
from contracts.adapter import encode
from contracts.bundle import MANIFEST, Bundle, file_entries, sha256_of
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.requests import ChatMessage, GenerateRequest
from model_builder.generate.adapt import AdapterOptions, import_adapter, import_merged
from tests.support.adapters import write_adapter
from tests.support.bundles import rewrite
from tests.support.tiny_decoder import tiny_bundle, tiny_weights

RUNTIMES = [None, "litert-interpreter"]


class Kit:
    """A base, two adapters, and the first of them merged into it."""

    def __init__(self, folder: Path) -> None:
        self.base = tiny_bundle(folder / "base", adapters=4)
        source = str(folder / "base" / "tiny.gguf")
        made = {}
        options = AdapterOptions(golden=("the quick brown fox", "the lazy dog", "name", "count"))
        for seed, name in enumerate(("home", "office"), 1):
            peft = write_adapter(folder / name, tiny_weights(), seed=seed, size=0.3)
            made[name] = import_adapter(peft, self.base, folder / "out", options).bundle
        self.home, self.office = self.both = made["home"], made["office"]
        options = AdapterOptions(weights_from=source, check_tokens=64)
        self.merged = import_merged(folder / "home", self.base, folder / "merged", options).bundle


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Made once."""
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(params=RUNTIMES)
def base(kit: Kit, request: pytest.FixtureRequest) -> Iterator[GenerativeModel]:
    """The base, loaded."""
    model = GenerativeModel(Bundle.open(kit.base), Options(runtime=request.param))
    yield model
    model.close()


def request(prompt: str = "the quick brown fox", **fields: object) -> GenerateRequest:
    """A greedy request, one token a run.

    How long guesses are depends on what runs take here, and a run of several tokens does not
    round their keys and values for one another: the answers of a random model hang on that.
    """
    asked = {"max_tokens": 40, "logprobs": 1, **fields}
    return GenerateRequest(prompt=prompt, **asked)  # type: ignore[arg-type]


def test_each_answers_as_if_it_were_alone(kit: Kit, base: GenerativeModel) -> None:
    """Whatever ran before, over all sizes of the context; and it says who answered.

    A second answer reads keys and values of the first, which are rounded: it is compared with
    another second one.
    """
    made = {
        folder: base if folder == kit.base else AdaptedModel(base, Bundle.open(folder))
        for folder in (kit.base, kit.home, kit.office)
    }
    alone = {
        folder: [model.generate(request()).text for _ in range(2)] for folder, model in made.items()
    }
    assert len({texts[0] for texts in alone.values()}) == 3
    for folder in (kit.home, kit.base, kit.office) * 2:
        for text in alone[folder]:
            answer = made[folder].generate(request())
            assert answer.text == text
            assert answer.bundle == Bundle.open(folder).ref


def test_apart_it_gives_what_it_gives_merged(kit: Kit, base: GenerativeModel) -> None:
    """The probabilities of the next token are nearly those of the merged bundle."""
    merged = GenerativeModel(Bundle.open(kit.merged))
    home = AdaptedModel(base, Bundle.open(kit.home))
    ids = base.prompts.encode("the quick brown fox jumps over the lazy dog")
    home.warm_up()
    base.decoder.truncate(0)
    apart, whole = base.decoder.score(ids), merged.decoder.score(ids)
    merged.close()
    base.warm_up()
    plain = base.decoder.score(ids)
    assert np.corrcoef(apart.ravel(), whole.ravel())[0, 1] > 0.99
    assert np.corrcoef(plain.ravel(), whole.ravel())[0, 1] < 0.97


def test_a_calibration_is_of_the_base_alone(kit: Kit, base: GenerativeModel) -> None:
    """An adapter answers otherwise: its confidence is a mean, and no chance."""
    ref, facts = base.own
    base._own = ref, msgspec.structs.replace(facts, calibration=[(0.0, 0.2), (1.0, 0.9)])
    base.facts = base._own[1]
    asked = request(min_confidence=0.0)
    home = AdaptedModel(base, Bundle.open(kit.home))
    assert base.generate(asked).calibrated
    assert not home.generate(asked).calibrated
    assert base.generate(asked).calibrated


def test_what_one_computed_is_nothing_to_another(kit: Kit, base: GenerativeModel) -> None:
    """Keys and values of a chat and of its system prompt are kept for whoever computed them."""
    home = AdaptedModel(base, Bundle.open(kit.home))
    chat = GenerateRequest(
        messages=[
            ChatMessage("system", "the quick brown fox jumps over the lazy dog"),
            ChatMessage("user", "name value count"),
        ],
        session="one",
        max_tokens=4,
    )
    first = base.generate(chat), home.generate(chat)
    again = base.generate(chat), home.generate(chat)
    assert [a.text for a in first] == [a.text for a in again]
    base.prefixes.clear()
    assert home.generate(chat).text == first[1].text
    # A few tokens may be the same by chance: what is taken over is counted too.
    base.prefixes.clear()
    base.generate(chat)
    ids = list(base.decoder.ids)
    taken = {}
    for owner in ("", kit.home.name):
        base.decoder.truncate(0)
        base.prefixes.owner = owner
        taken[owner] = base.prefixes.prepare(base.decoder, ids)
    assert taken[""] > len(ids) // 2 and taken[kit.home.name] == 0


def test_its_golden_vectors_hold_with_its_base_alone(kit: Kit, base: GenerativeModel) -> None:
    """They are of base and adapter; without the adapter they do not hold."""
    bundle = Bundle.open(kit.home)
    home = AdaptedModel(base, bundle)
    tested = home.selftest(bundle)
    assert tested.passed == tested.vectors > 0 and tested.bundle == bundle.ref
    assert base.selftest(bundle).passed < tested.vectors


def test_another_base_is_refused(kit: Kit, tmp_path: Path) -> None:
    """By its digest, though it has the same name and shape."""
    other = tmp_path / "other"
    Bundle.open(kit.base).extract(other)
    rewrite(Bundle.open(other), version="1.0.1")
    with pytest.raises(RefusedError) as caught:
        load(Bundle.open(kit.home), Options(), other)
    assert caught.value.code == "wrong-base"
    with pytest.raises(RefusedError) as caught:
        load(Bundle.open(kit.home), Options())
    assert caught.value.code == "no-base"


@pytest.mark.parametrize("cut", [0, 2, 4, 40, -1])
def test_a_file_that_is_not_whole_is_refused(cut: int, kit: Kit, tmp_path: Path) -> None:
    """Though the manifest is right about it: whoever made it was wrong."""
    folder = tmp_path / "cut"
    bundle = Bundle.open(kit.home)
    bundle.extract(folder)
    name = bundle.manifest.model.file
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:cut])
    rewrite(Bundle.open(folder))
    with pytest.raises(InputError) as caught:
        load(Bundle.open(folder), Options(), kit.base)
    assert caught.value.code in ("bundle-corrupt", "bad-message")


def test_a_release_finds_its_base_beside_it(kit: Kit, tmp_path: Path) -> None:
    """As the device keeps both: in folders that are named by their digests."""
    folders = {}
    for bundle in map(Bundle.open, (kit.base, kit.home)):
        folders[bundle.path] = tmp_path / bundle.ref.manifest_sha256
        bundle.extract(folders[bundle.path])
        assert (
            sha256_of((folders[bundle.path] / MANIFEST).read_bytes()) == folders[bundle.path].name
        )
    tested = models.selftest(Bundle.open(folders[kit.home]))
    assert tested.passed == tested.vectors


def test_slots_of_adapters_share_one_base(kit: Kit) -> None:
    """They are found by slot or name, and serve nothing while the base does not."""
    serving = Models(Options())
    with pytest.raises(RefusedError) as refused:
        serving.activate("home", kit.home)
    assert refused.value.code == "no-base"
    serving.activate("generate", kit.base)
    serving.activate("home", kit.home)
    serving.activate("desk", kit.office)
    assert serving.adapter("generate", "desk") == serving.adapter("generate", "office") == "desk"
    with pytest.raises(UnavailableError) as none:
        serving.adapter("generate", "garden")
    assert none.value.code == "no-adapter" and "desk, home" in str(none.value)
    with serving.use("generate") as one, serving.use("home") as two, serving.use("desk") as three:
        answers = [model.generate(request()) for model in (one, two, three)]
        assert len({answer.text for answer in answers}) == 3
    assert serving.problem("home") is None
    serving.activate("generate", kit.merged)
    problem = serving.problem("home")
    assert problem is not None and problem.code == "no-base"
    with pytest.raises(UnavailableError), serving.use("home"):
        pass
    serving.activate("generate", kit.base)
    assert serving.problem("home") is None
    with serving.use("home") as model:
        assert model.generate(request()).text == answers[1].text
    serving.close()


def test_an_adapter_that_is_replaced_takes_no_memory_any_more(kit: Kit) -> None:
    """A hundred updates of it fit into what two of them need."""
    base, home = (Bundle.open(folder).manifest for folder in (kit.base, kit.home))
    assert base.model.peak_rss_bytes is not None
    assert home.model.peak_rss_bytes is not None
    serving = Models(Options(), base.model.peak_rss_bytes + 3 * home.model.peak_rss_bytes)
    serving.activate("generate", kit.base)
    for _ in range(20):
        serving.activate("home", kit.home)
        serving.activate("home", kit.office)
    serving.activate("desk", kit.home)
    with pytest.raises(RefusedError) as full:
        for slot in ("a", "b", "c"):
            serving.activate(slot, kit.home)
    assert full.value.code == "no-memory"
    with serving.use("desk") as model:
        assert model.generate(request()).bundle == Bundle.open(kit.home).ref
    serving.close()


def test_a_self_test_prepares_no_signature_that_it_does_not_run(kit: Kit) -> None:
    """All of a large base, each with its buffers, would want gigabytes."""
    sizes = {}
    for lean in (False, True):
        model = GenerativeModel(Bundle.open(kit.base), Options(lean=lean))
        assert model.selftest(Bundle.open(kit.base)).passed
        sizes[lean] = set(model.decoder._engine.loaded)
        model.close()
    assert sizes[True] < sizes[False]
    assert not any(name.endswith("_a4") for name in sizes[True] | sizes[False])


@pytest.mark.parametrize("cached", [False, True])
def test_more_adapters_than_stay_prepared_answer_in_turn(
    cached: bool, kit: Kit, tmp_path: Path
) -> None:
    """Each as itself, on weights that were packed before any of them; few stay in memory."""
    cache = tmp_path / "weights" if cached else None
    base = GenerativeModel(Bundle.open(kit.base), Options(cache=cache))
    folders = (kit.home, kit.office)
    made = [AdaptedModel(base, Bundle.open(folder)) for folder in folders * 3]
    packed = cache.stat() if cache else None
    expected = [made[i].generate(request()).text for i in (0, 1)]
    assert expected[0] != expected[1]
    for index in (*range(6), *range(6)):
        assert made[index].generate(request()).text == expected[index % 2], index
    engine = base.decoder._engine
    assert len([name for name in engine.loaded if name.startswith("decode")]) <= 3
    if cache:
        # Whoever reads the file next is another adapter, or none.
        assert cache.stat() == packed
        again = GenerativeModel(Bundle.open(kit.base), Options(cache=cache))
        assert again.generate(request()).text == base.generate(request()).text
        again.close()
    base.close()


def test_packed_weights_that_went_away_are_not_made_again_with_an_adapter(
    kit: Kit, tmp_path: Path
) -> None:
    """Another adapter would find the first one's matrices in them, in its own place."""
    cache = tmp_path / "weights"
    base = GenerativeModel(Bundle.open(kit.base), Options(cache=cache))
    cache.unlink()
    texts = [AdaptedModel(base, Bundle.open(f)).generate(request()).text for f in kit.both]
    assert not cache.exists()
    base.close()
    fresh = GenerativeModel(Bundle.open(kit.base), Options(cache=cache))
    assert [AdaptedModel(fresh, Bundle.open(f)).generate(request()).text for f in kit.both] == texts
    fresh.close()


def test_an_adapter_that_cannot_be_prepared_leaves_the_other_at_work(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request to it tries again; nobody answers in its name."""
    base = GenerativeModel(Bundle.open(kit.base))
    home, office = (AdaptedModel(base, Bundle.open(f)) for f in kit.both)
    expected = home.generate(request()).text

    def fail(*arguments: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("agent.generate.litert_engine.Model", fail)
        for _ in range(2):
            with pytest.raises(RefusedError, match="no memory"):
                office.generate(request())
    base.prefixes.clear()
    base.decoder.truncate(0)
    assert home.generate(request()).text == expected
    answer = office.generate(request())
    assert answer.bundle == Bundle.open(kit.office).ref and answer.text != expected
    base.close()


def test_a_base_whose_places_are_others_is_refused(kit: Kit, tmp_path: Path) -> None:
    """A manifest that says another shape than the file has: no adapter is half in."""
    folder = tmp_path / "other"
    Bundle.open(kit.base).extract(folder)
    opened = Bundle.open(folder)
    facts = opened.manifest.generator
    assert facts is not None and facts.adapters is not None
    room = msgspec.structs.replace(facts.adapters, hidden=facts.adapters.hidden * 2)
    changed = rewrite(opened, generator=msgspec.structs.replace(facts, adapters=room))
    adapter = tmp_path / "adapter"
    Bundle.open(kit.home).extract(adapter)
    own = Bundle.open(adapter).manifest.adapter
    assert own is not None
    ones = np.ones((2, facts.width), np.float32)
    (adapter / "adapter.bin").write_bytes(encode({(0, "q"): (ones, ones.T)}))
    rewrite(
        Bundle.open(adapter),
        adapter=msgspec.structs.replace(own, base=changed.ref, rank=2, targets=["q"]),
        files=file_entries(p for p in adapter.iterdir() if p.name != MANIFEST),
    )
    base = GenerativeModel(changed)
    with pytest.raises(RefusedError) as caught:
        AdaptedModel(base, Bundle.open(adapter)).generate(request())
    assert caught.value.code == "model-failed" and "places" in str(caught.value)
    assert base.generate(request()).text
    base.close()
