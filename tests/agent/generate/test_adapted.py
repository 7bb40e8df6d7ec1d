"""Adapters of a loaded generator: each answers as itself, and the base as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.generate.adapted import AdaptedModel, load
from agent.generate.model import GenerativeModel
from agent.runtime import model as models
from agent.runtime.model import Options
from agent.serving.models import Models
from contracts.bundle import MANIFEST, Bundle, sha256_of
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
        self.home, self.office = made["home"], made["office"]
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
    """A greedy request."""
    return GenerateRequest(prompt=prompt, **{"max_tokens": 40, **fields})  # type: ignore[arg-type]


def test_each_answers_as_if_it_were_alone(kit: Kit, base: GenerativeModel) -> None:
    """Whatever ran before, over all sizes of the context; and it says who answered."""
    alone = {}
    for folder in (kit.base, kit.home, kit.office):
        if folder == kit.base:
            alone[folder] = base.generate(request())
        else:
            model = AdaptedModel(base, Bundle.open(folder))
            alone[folder] = model.generate(request())
    texts = {answer.text for answer in alone.values()}
    assert len(texts) == 3
    home, office = (AdaptedModel(base, Bundle.open(f)) for f in (kit.home, kit.office))
    for model, folder in ((home, kit.home), (base, kit.base), (office, kit.office)) * 2:
        for _ in range(2):
            answer = model.generate(request())
            assert answer.text == alone[folder].text
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
    """All of a base that takes adapters, each with its buffers, would want gigabytes."""
    sizes = {}
    for lean in (False, True):
        model = GenerativeModel(Bundle.open(kit.base), Options(lean=lean))
        assert model.selftest(Bundle.open(kit.base)).passed
        sizes[lean] = set(model.decoder._engine.loaded)
        model.close()
    assert sizes[True] < sizes[False]
    assert any(name.endswith("_r4") for name in sizes[False])
    assert not any(name.endswith("_r4") for name in sizes[True])
