"""From the version that runs to the next one: rows, build, verdict, signature, shadow, rollout.

Each step is on the disk when it is done, so that what was ended goes on where it was. The build is
a program of its own, apart from the controller.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from contracts import codec, interpreter
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef
from contracts.redacted import as_said
from fleet import durable
from fleet.client import Client
from fleet.folder import Fleet
from fleet.improve import answers, hints, verdict
from fleet.improve.verdict import Verdict
from fleet.improve.wish import State, Step, Wish, active_spec, shadow_spec
from fleet.improvements import CACHE, FOLDER, LOCK, STATE, VERDICT
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ENDED
from fleet.samples import rows
from fleet.store import audit, bundles, samples

FIELD: Final = "field.jsonl"

_POLL_S: Final = 0.5

Say = Callable[[str], None]


class Improvement:
    """One next version of a model.

    Args:
        fleet: the folder.
        client: of its controller.
        name: of the model.
        say: told what happens, for people.
    """

    def __init__(self, fleet: Fleet, client: Client, name: str, say: Say) -> None:
        self._fleet = fleet
        self._client = client
        self._say = say
        self.name = name
        self._home = fleet.folder / FOLDER / name
        self.state: State | None = None

    @property
    def folder(self) -> Path:
        """Where the version is made."""
        assert self.state is not None
        return self._home / self.state.version

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process for a model at a time.

        Raises:
            UnavailableError: ``folder-busy``.
        """
        durable.make_folder(self._home)
        with (self._home / LOCK).open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UnavailableError(
                    "folder-busy", f"another process improves {self.name} now: wait for it"
                ) from None
            yield

    def begin(self, wish: Callable[[Wish | None], Wish], version: str | None) -> State:
        """Goes on with what was not ended, or begins the next version.

        Args:
            wish: makes what is wanted of what was wanted the last time.
            version: of the next; None: the next minor one.

        Raises:
            InputError: ``no-such-bundle``, ``no-samples``.
        """
        last = self._last()
        if last is not None and last.step not in ("done", "stopped") and version is None:
            last.wish = wish(last.wish)
            self.state = last
            self._save()
            self._say(f"going on with {self.name} {last.version}: it was {last.step}")
            return last
        against = self._running()
        made = State(
            self.name,
            version or self._next(),
            against.version,
            wish(last.wish if last is not None else None),
        )
        self.state = made
        durable.make_folder(self.folder)
        made.rows = self._write_rows()
        self._save()
        return made

    def _last(self) -> State | None:
        found = [path for path in self._home.glob(f"*/{STATE}") if path.is_file()]
        if not found:
            return None
        newest = max(found, key=lambda path: path.stat().st_mtime_ns)
        return codec.decode(newest.read_bytes(), State, what=str(newest))

    def _save(self) -> None:
        assert self.state is not None
        durable.write(self.folder / STATE, codec.pretty(self.state))

    def _running(self) -> BundleRef:
        """The version that most devices run; else the newest that is published."""
        counts = Counter(
            slot.active.version
            for device in self._client.devices()
            for slot in device.slots.values()
            if slot.active is not None and slot.active.name == self.name
        )
        known = {ref.version: ref for ref in self._published()}
        for version, _ in counts.most_common():
            if version in known:
                return known[version]
        if not known:
            raise InputError(
                "no-such-bundle", f"no version of {self.name} is published: publish the first one"
            )
        return known[max(known, key=_numbers)]

    def _published(self) -> list[BundleRef]:
        found = self._fleet.open_repository().bundles()
        return [ref for ref in found if ref.name == self.name]

    def _next(self) -> str:
        with contextlib.closing(self._fleet.open_store()) as store, store.read() as connection:
            there = [
                one.ref.version for one in bundles.every(connection) if one.ref.name == self.name
            ]
        tried = [path.parent.name for path in self._home.glob(f"*/{STATE}")]
        major, minor, _ = max(_numbers(version) for version in (*there, *tried, "0.0.0"))
        return f"{major}.{minor + 1}.0"

    def _write_rows(self) -> dict[str, int]:
        """The labelled texts of now: what comes later is for the version after."""
        with (
            contextlib.closing(self._fleet.open_store()) as store,
            audit.acting(store, audit.local(), "samples.export", self.name) as act,
        ):
            with store.read() as connection:
                found = rows.rows(samples.texts(connection, self.name))
            act.detail["rows"] = len(found)
            parts = Counter(str(row.part) for row in found)
            if not parts["learn"]:
                raise InputError(
                    "no-samples",
                    f"nobody labelled a text of {self.name} that it may learn from: "
                    f"shoal fleet samples label {self.name}",
                )
            durable.write(self.folder / FIELD, rows.to_jsonl(found), mode=0o600)
        return dict(parts)

    # Steps. ---------------------------------------------------------------------------------

    def build(self) -> None:
        """Builds it, as a program of its own; what was built before is taken.

        Raises:
            UnavailableError: ``build-failed``.
        """
        state = self._at("begun")
        if state is None:
            return
        out = self.folder / "build"
        command = interpreter.module(
            "model_builder", "build", state.wish.recipe, "--out", str(out), "--json"
        )
        for change in (
            *state.wish.changes,
            f"name={json.dumps(self.name)}",
            f"version={json.dumps(state.version)}",
            f"data.field={json.dumps(str((self.folder / FIELD).resolve()))}",
            f"data.after={json.dumps(state.against)}",
        ):
            command += ["--set", change]
        self._say(
            f"building {self.name} {state.version} from {state.rows.get('learn', 0)} more texts"
        )
        self._share_cache(out)
        log = self.folder / "build.log"
        with log.open("ab") as sink:
            # Of a person at a terminal the builder's progress is shown.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if sys.stderr.isatty() else sink,
                check=False,
            )
        if done.returncode != 0:
            end = log.read_text(errors="replace").strip().splitlines()
            raise UnavailableError(
                "build-failed",
                f"{state.wish.recipe} was not built: {end[-1][-500:] if end else 'see above'}; "
                "the same command goes on",
            )
        summary = codec.decode(done.stdout, dict[str, Any], what="the builder's summary")
        state.bundle = str(summary["bundle"])
        self._reach("built")

    def take_cache(self, folder: Path) -> None:
        """Takes what a build elsewhere kept of its teacher and of who wrote its text.

        Raises:
            InputError: ``no-such-file``; it is no folder.
        """
        if not folder.is_dir():
            raise InputError(
                "no-such-file", f"{folder} is no folder: name the cache below --out of a build"
            )

        def copy(source: str, target: str) -> None:
            if not Path(target).exists():
                shutil.copyfile(source, target)

        shutil.copytree(folder, self._home / CACHE, dirs_exist_ok=True, copy_function=copy)

    def _share_cache(self, out: Path) -> None:
        """What a teacher said of a text stays from version to version: most texts are the same."""
        durable.make_folder(self._home / CACHE)
        durable.make_folder(out)
        with contextlib.suppress(FileExistsError):
            (out / "cache").symlink_to((self._home / CACHE).resolve(), target_is_directory=True)

    def judge(self) -> Verdict:
        """Compares it with the version that runs; where it is worse it ends here.

        Raises:
            RefusedError: ``next-is-worse``, with what it is worse on.
        """
        state = self.state
        assert state is not None
        file = self.folder / VERDICT
        if self._at("built") is None:
            found = codec.decode(file.read_bytes(), Verdict, what=str(file), cap=_MANY)
        else:
            found = self._judged(state)
            durable.write(file, codec.pretty(found), mode=0o600)
            state.stops = found.stops
            self._reach("stopped" if found.stops else "judged")
        for note in found.notes:
            self._say(f"note: {note}")
        if found.stops:
            raise RefusedError(
                "next-is-worse",
                f"{self.name} {state.version} is not rolled out, since it is "
                f"{'; and '.join(found.stops)} ({state.against} runs): see {file}",
            )
        return found

    def _judged(self, state: State) -> Verdict:
        repository = self._fleet.open_repository()
        ref = repository.find(self.name, state.against)
        old = answers.taken_out(repository, ref, self.folder / f"running-{ref.version}").path
        new = Path(state.bundle)
        test = answers.read_rows(new.with_name(f"{new.name}-test.jsonl"))
        field = [
            (as_said(row["text"]), row["label"])
            for row in map(json.loads, (self.folder / FIELD).read_bytes().splitlines())
            if row["part"] == "judge"
        ]
        self._say(f"comparing with {state.against} on {len(test)} test rows, {len(field)} kept out")
        return verdict.judge(
            [
                verdict.compare("test", answers.answered(old, new, test)),
                verdict.compare("field", answers.answered(old, new, field)),
            ],
            state.wish.max_loss,
        )

    def publish(self) -> BundleRef:
        """Signs and publishes it."""
        state = self.state
        assert state is not None
        if self._at("judged") is None:
            return Bundle.open(Path(state.bundle)).ref
        ref, _ = self._fleet.publish(Path(state.bundle))
        self._say(f"published {ref}")
        with contextlib.suppress(ShoalError):  # the queue alone is worse for it
            hints.look_again(self._fleet, ref)
        self._reach("published")
        return ref

    def roll_out(self) -> None:
        """Shadow first, then in waves behind gates; until it ends.

        Raises:
            RefusedError: ``next-was-stopped``; by a gate, or by a person.
        """
        state = self.state
        assert state is not None
        if state.step == "published":
            self._reach("rolling")
        if state.wish.shadow_s:
            self._follow("shadow", shadow_spec(state))
        self._follow("active", active_spec(state))
        self._reach("done")

    def _follow(self, kind: str, spec: RolloutSpec) -> None:
        state = self.state
        assert state is not None
        if kind not in state.rollouts:
            # Under a key: a rollout whose answer was lost is not made twice.
            key = f"improve-{self.name}-{state.version}-{kind}"
            state.rollouts[kind] = self._client.create_rollout(spec, idempotency_key=key).id
            self._save()
        shown = ""
        while True:
            with contextlib.suppress(UnavailableError):  # the controller starts again, say
                found = self._client.rollout(state.rollouts[kind])
                now = f"{kind} rollout {found.id}, wave {found.wave + 1}: {found.status}"
                if now != shown:
                    shown = now
                    self._say(now)
                if found.status in ENDED:
                    break
            time.sleep(_POLL_S)
        if found.status != "succeeded":
            why = found.reason.message if found.reason is not None else found.status
            state.stops = [f"{kind} rollout {found.id}: {why}"]
            self._reach("stopped")
            raise RefusedError(
                "next-was-stopped", f"{kind} rollout {found.id} {found.status}: {why}"
            )

    def _at(self, step: Step) -> State | None:
        assert self.state is not None
        return self.state if self.state.step == step else None

    def _reach(self, step: Step) -> None:
        assert self.state is not None
        self.state.step = step
        self._save()


_MANY: Final = 64 * 1024 * 1024


def run(
    improvement: Improvement, agreed: Callable[[Verdict], bool], *, roll_out: bool = True
) -> State:
    """All steps that are left.

    Raises:
        ShoalError: of the step that could not be done; the same again goes on from there.
    """
    improvement.build()
    found = improvement.judge()
    state = improvement.state
    assert state is not None
    if state.step == "judged" and not agreed(found):
        return state
    improvement.publish()
    if roll_out:
        improvement.roll_out()
    return state


def _numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch
