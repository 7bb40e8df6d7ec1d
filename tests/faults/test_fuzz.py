"""10,000 generated payloads on every topic that an agent reads, and on every file it parses.

A hundred seeds of a hundred payloads each: valid documents with bytes, types, depths and sizes
changed. Nothing may raise but the errors of :mod:`contracts.errors`, and memory is bounded.

Over 400 lines: one table of all that an agent reads, with how each is made and damaged.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from agent.children import helper
from agent.cli.device import read_config
from agent.connection import Inbound
from agent.daemon import Agent
from agent.runtime import check
from agent.runtime.front_end import Tokenizer
from agent.system.filesystem import Disk
from agent.system.state import StateFolder
from agent.system.statusfile import read as read_status
from agent.telemetry.spool import Spool
from agent.trust.client import named
from agent.update import delta, journal
from contracts import blocks, codec
from contracts.answers import Answer
from contracts.bundle import MANIFEST, Bundle, decode_manifest, file_entries, pack, sha256_of
from contracts.config import AgentConfig
from contracts.desired import Desired, DesiredBundle
from contracts.errors import ShoalError
from contracts.labelled.load import load_rows
from contracts.manifest import TokenizerFrontEnd
from contracts.messages import Status
from contracts.requests import GenerateRequest
from fleet.identity import provisioning
from fleet.repository.repository import Repository
from tests.support.bundles import rewrite
from tests.support.controller import TINY, make_repository
from tests.support.mutate import payloads

PER_SEED = 100
SEEDS = settings(
    max_examples=100,
    phases=[Phase.generate],  # a seed reproduces; shrinking it says nothing
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
MAX_GROWTH = 60_000_000
REF = Bundle.open(TINY).ref
NUMBERS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository for the root of trust."""
    return make_repository(tmp_path_factory.mktemp("repo"), TINY)


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, repository: Repository
) -> Iterator[tuple[Agent, list[bytes]]]:
    """An agent with a model, whose messages come by hand and whose answers are kept."""
    config = AgentConfig("f", "d", "raspberry-pi-5", repository.root.decode(), groups=["g"])
    one = Agent(config, tmp_path_factory.mktemp("agent"))
    sent: list[bytes] = []
    one.link.publish = lambda topic, payload, **_: sent.append(payload)  # type: ignore[method-assign]
    one.dispatcher._send = lambda topic, payload, _: sent.append(payload)
    one.engine.recover()
    one.models.activate("classify", TINY)
    one.worker.start()
    yield one, sent
    one.stopping.set()
    one.worker.drain(5)
    one.models.close()
    one.spool.close()
    one.state.close()


TOPICS: dict[str, list[bytes]] = {
    "d/d/desired": [
        codec.encode(Desired(3, {"classify": DesiredBundle(REF)}, {"a": 1}, "r1", 5.0)),
        codec.encode(Desired(1)),
    ],
    "d/d/req/classify": [
        b'{"id":"r1","text":"turn on the light","top_k":3,"priority":5}',
        b'{"id":"r2","text":"x","slot":"classify","deadline_ms":100,"requester":"me"}',
    ],
    "d/d/req/selftest": [b'{"id":"r1","slot":"classify"}'],
    "d/d/req/status": [b'{"id":"r1"}'],
    "d/d/req/cancel": [b'{"id":"r1","cancel":"r2"}'],
    "d/d/req/generate": [codec.encode(GenerateRequest(id="r", prompt="x", stop=["a"]))],
    "g/g/req/classify": [
        b'{"id":"r1","text":"turn on the light","reply_to":"shoal/v1/f/d/d/res/x"}'
    ],
    "g/g/req/selftest": [b'{"id":"r1","slot":"classify","reply_to":"shoal/v1/f/d/d/res/x"}'],
    "g/g/req/status": [b'{"id":"r1","reply_to":"shoal/v1/f/d/d/res/x"}'],
    "g/g/req/cancel": [b'{"id":"r1","cancel":"r2","reply_to":"shoal/v1/f/d/d/res/x"}'],
    "g/g/req/generate": [codec.encode(GenerateRequest(id="r", prompt="x", stop=["a"]))],
    "d/d/blob/b1": [blocks.pack("b1", blocks.Block(0, 10, b"0123456789"))],
    "d/d/status": [codec.encode(Status("offline", "b", 3, 1.0))],
}


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_no_payload_on_a_topic_breaks_the_agent(
    topic: str, agent: tuple[Agent, list[bytes]]
) -> None:
    """Each is handled and acknowledged; each answer is in the protocol's shape."""
    one, sent = agent
    process = psutil.Process()
    before = process.memory_info().rss
    count = 0

    @SEEDS
    @given(NUMBERS)
    def run(number: int) -> None:
        nonlocal count
        chance = random.Random(number)
        sent.clear()
        acked: list[int] = []
        for payload in payloads(number, TOPICS[topic], PER_SEED):
            count += 1
            properties = (None, None, None)
            if chance.random() < 0.3:
                properties = (
                    chance.choice(["shoal/v1/f/d/d/res/q", "x/#", "", "\0", None]),
                    chance.choice([b"c1", b"\xff", b"", b"x" * 5000, None]),
                    chance.choice([0, 1, 2**32 - 1, None]),
                )
            inbound = Inbound(
                f"shoal/v1/f/{topic}", payload, *properties, ack=lambda: acked.append(1)
            )
            if topic.endswith("status"):
                one.link._own_status(inbound)
            else:
                one.routing.message(inbound)
        assert one.worker.alive
        for answer in list(sent):
            if not topic.endswith("status"):
                codec.decode(answer, Answer, what="an answer")

    run()
    assert count >= 10_000
    assert one.worker.alive
    assert process.memory_info().rss - before < MAX_GROWTH
    # It still answers.
    sent.clear()
    one.stopping.clear()
    with one.models.use("classify") as model:
        assert model.classify("turn on the light").label == "lights-on"


@pytest.mark.parametrize(
    "topic",
    ["", "shoal", "shoal/v1/f/d/d", "shoal/v1/f/d/d/req/", "shoal/v1/f/d/d/req/\0", "$SYS/x"],
)
def test_an_odd_topic_is_refused(topic: str, agent: tuple[Agent, list[bytes]]) -> None:
    """And acknowledged."""
    acked: list[int] = []
    agent[0].routing.message(Inbound(topic, b"{}", None, None, None, lambda: acked.append(1)))
    assert acked == [1]


def _manifest(path: Path, data: bytes) -> None:
    decode_manifest(data)


def _golden(path: Path, data: bytes) -> None:
    from contracts.manifest import GoldenVector

    codec.decode(data, list[GoldenVector], what="golden vectors")


def _journal(path: Path, data: bytes) -> None:
    """As it is in one file, and in the other behind its checksum."""
    for name in journal.NAMES:
        (path.parent / name).write_bytes(data)
        data = f"{sha256_of(data)}\n".encode() + data
    journal.JournalFiles(Disk(), path.parent).load()  # what it cannot read is set aside


def _status(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    read_status(path)


def _config(path: Path, data: bytes) -> None:
    path.write_bytes(data[:800])  # PyYAML is slow
    read_config(path)


def _examples(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    load_rows(path)


def _archive(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    Bundle.open(path).verify()


def _delta(path: Path, data: bytes) -> None:
    delta.apply(b"old" * 1000, data, 3000)


def _tokenizer(path: Path, data: bytes) -> None:
    Tokenizer(data, TokenizerFrontEnd("tokenizer.json", [8])).encode("a text")


def _block(path: Path, data: bytes) -> None:
    blocks.unpack("b1", data)


def _parquet(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    load_rows(path)


def _spool(path: Path, data: bytes) -> None:
    for suffix in ("", "-wal", "-shm", ".bad"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(data)
    spool = Spool(path, 10_000, 60.0, lambda: 1.0)  # what it cannot read is set aside
    spool.put("a/topic", b"{}")
    spool.tell("a/topic", lambda drops: b"{}", boot="b", seq=0, items=1)
    assert spool.acknowledged in (True, False)
    spool.close()


def _session(path: Path, data: bytes) -> None:
    (path.parent / "session").write_bytes(data[:2000])
    state = StateFolder(path.parent)  # counts from zero what it cannot read
    try:
        assert state.next_session() >= 1
    finally:
        state.close()


class _Metadata:
    """Reads a role's metadata where the update client has accepted the roles before it."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._set: TrustedMetadataSet | None = None
        self._files: dict[str, bytes] = {}

    def seed(self, _: Path, repository: Repository) -> bytes:
        """The real file of the role."""
        folder = repository.folder / "metadata"
        for role in ("root", "timestamp", "snapshot", "targets"):
            newest = max(folder.glob(f"*{role}.json"), key=lambda f: (len(f.name), f.name))
            self._files[role] = newest.read_bytes()
        return self._files[self.role]

    def __call__(self, _: Path, data: bytes) -> None:
        if self._set is None:
            self._set = TrustedMetadataSet(self._files["root"], EnvelopeType.METADATA)
            for role in ("timestamp", "snapshot", "targets"):
                if self.role in ("root", role):
                    break
                getattr(self._set, f"update_{role}")(self._files[role])
        with named(self.role):
            getattr(self._set, f"update_{self.role}")(data)
        self._set = None  # it was accepted: the next one begins anew


METADATA = {role: _Metadata(role) for role in ("root", "timestamp", "snapshot", "targets")}


def _seed_spool(folder: Path) -> bytes:
    spool = Spool(folder / "seed.sqlite", 10_000, 60.0, lambda: 1.0)
    for number in range(5):
        spool.put(f"a/{number}", b"{}" * number)
    spool.close()
    return (folder / "seed.sqlite").read_bytes()


def _seed_journal() -> bytes:
    from agent.update.machine import Update

    known = journal.Journal(Desired(2, {"a": DesiredBundle(REF)}), 1, Update(2, "a", REF), {}, 7)
    return codec.encode(journal.Record(4, known))


def _seed_archive(folder: Path) -> bytes:
    pack(TINY, folder / "x.shoal")
    return (folder / "x.shoal").read_bytes()


def _seed_delta() -> bytes:
    from fleet.repository.delta import make

    patch = make(b"old" * 1000, b"new" * 1000)
    assert patch is not None
    return patch


def _seed_parquet(folder: Path) -> bytes:
    import pyarrow
    from pyarrow import parquet

    path = folder / "seed.parquet"
    table = pyarrow.table({"text": ["turn on", "turn off", "ü"] * 9, "label": ["a", "b", "a"] * 9})
    parquet.write_table(table, path)
    return path.read_bytes()


def _seed_tokenizer() -> bytes:
    import tokenizers
    from tokenizers.models import WordLevel

    return tokenizers.Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")).to_str().encode()


FILES: dict[str, tuple[Callable[[Path, bytes], None], Callable[[Path, Repository], bytes]]] = {
    "manifest.json": (_manifest, lambda f, r: (TINY / "manifest.json").read_bytes()),
    "golden.json": (_golden, lambda f, r: (TINY / "golden.json").read_bytes()),
    "journal": (_journal, lambda f, r: _seed_journal()),
    "status.json": (_status, lambda f, r: b'{"pid":1,"at":1,"started":1,"connected":true}'),
    "agent.yaml": (
        _config,
        lambda f, r: provisioning.to_yaml(AgentConfig("f", "d", "raspberry-pi-5", "root")),
    ),
    "data.jsonl": (_examples, lambda f, r: b'{"text":"a","label":"b"}\n{"text":"c","label":"d"}\n'),
    "data.csv": (_examples, lambda f, r: b'text,label\nhello,x\n"a ""quoted"" one",y\n'),
    "bundle.shoal": (_archive, lambda f, r: _seed_archive(f)),
    "data.parquet": (_parquet, lambda f, r: _seed_parquet(f)),
    "delta": (_delta, lambda f, r: _seed_delta()),
    "tokenizer.json": (_tokenizer, lambda f, r: _seed_tokenizer()),
    "spool.sqlite": (_spool, lambda f, r: _seed_spool(f)),
    "session": (_session, lambda f, r: b"17"),
    **{f"{role}.json": (one, one.seed) for role, one in METADATA.items()},
    "block": (_block, lambda f, r: blocks.pack("b1", blocks.Block(0, 10, b"0123456789"))),
}


SET_ASIDE = {"journal", "spool.sqlite", "session"}
"""What cannot be read there is put away, and the agent begins anew."""


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_content_of_a_file_breaks_its_reader(
    name: str, tmp_path: Path, repository: Repository
) -> None:
    """It is read, or refused with an error of ours."""
    reader, seed = FILES[name]
    seeds = [seed(tmp_path, repository)]
    path = tmp_path / f"fuzzed-{name}"
    process = psutil.Process()
    before = process.memory_info().rss
    count = refused = 0

    @SEEDS
    @given(NUMBERS)
    def run(number: int) -> None:
        nonlocal count, refused
        for data in payloads(number, seeds, PER_SEED):
            count += 1
            try:
                reader(path, data)
            except ShoalError as error:
                refused += 1
                assert str(error)

    run()
    assert count >= 10_000
    assert refused > 0 or name in SET_ASIDE
    assert process.memory_info().rss - before < MAX_GROWTH


def damaged(chance: random.Random, model: bytes) -> bytes:
    """A model with a few bytes changed, cut, or grown."""
    data = bytearray(model)
    for _ in range(chance.choice((1, 2, 4, 16, 40))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    kind = chance.random()
    if kind < 0.05:
        del data[chance.randrange(len(data)) :]
    elif kind < 0.1:
        at = chance.randrange(len(data))
        data[at:at] = chance.randbytes(chance.randrange(1, 64))
    return bytes(data)


FRAIL = """#!{python}
import ctypes
from agent.children import forks
from agent.runtime.litert_library import Library

def call(self, function, *arguments):
    if getattr(self._library, function)(*arguments):
        ctypes.string_at(0)

Library.call = call
forks.main()
"""
"""A Python that runs the helper with a runtime that reads from address 0 where LiteRT refuses."""


@pytest.fixture
def runtime(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the children of a self-test run: ``litert``, or the ``frail`` one."""
    kind: str = request.param
    if kind == "frail":
        python = tmp_path / "python"
        python.write_text(FRAIL.format(python=sys.executable))
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(helper, "start", helper.Helper().start)
    return kind


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("runtime", ["litert", "frail"], indirect=True)
@pytest.mark.timeout(1800)
def test_no_damage_to_a_model_file_gets_out_of_the_child(
    count: int, runtime: str, tmp_path: Path
) -> None:
    """Crashes, endless loops and greed end with the child, within its limits."""
    folder = tmp_path / "bundle"
    Bundle.open(TINY).extract(folder)
    ends: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        data = damaged(random.Random(number), (TINY / "model.tflite").read_bytes())
        (folder / "model.tflite").write_bytes(data)
        files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
        rewrite(Bundle.open(folder), files=files)
        begin = time.monotonic()
        try:
            result = check.run(folder, seconds=3, memory_bytes=1 << 30)
        except ShoalError as error:
            ends[error.code] += 1
        else:
            ends["ok"] += 1
            assert result.passed == result.vectors
        slowest = max(slowest, time.monotonic() - begin)
    print(runtime, dict(ends), f"slowest {slowest:.1f} s")
    assert set(ends) <= {
        "ok", "golden-mismatch", "model-failed", "selftest-crashed", "selftest-timeout",
        "selftest-memory", "bad-manifest",
    }  # fmt: skip
    assert ends["golden-mismatch"] and ends["model-failed"]
    # LiteRT itself was not seen to crash in 10,000.
    assert runtime == "litert" or ends["selftest-crashed"]
    assert slowest < 30
