"""Commands: the right exit code, one clear line on stderr, nothing half-written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.cli.app import app
from tests.support.bundles import noise_bundle

RUN = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet that no controller serves."""
    folder = tmp_path_factory.mktemp("cli") / "fleet"
    result = RUN.invoke(app, ["fleet", "init", str(folder), "--api-port", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["fleet"] == "home"
    return folder


def test_secrets_of_a_new_fleet_are_for_their_owner_alone(folder: Path) -> None:
    """Keys, the token and the configuration are readable by nobody else."""
    assert folder.stat().st_mode & 0o077 == 0
    for path in (folder / "tokens" / "admin", folder / "fleet.yaml"):
        assert path.stat().st_mode & 0o077 == 0


def test_enrol_writes_one_file_and_publish_numbers_releases(folder: Path, tmp_path: Path) -> None:
    """And the second time each says what is there already."""
    arguments = ["fleet", "enroll", "kitchen", "--board", "raspberry-pi-5", "--dir", str(folder)]
    done = RUN.invoke(app, [*arguments, "--label", "site=lyon", "--json"])
    assert done.exit_code == 0, done.output
    assert Path(json.loads(done.stdout)["config"]).stat().st_mode & 0o077 == 0
    again = RUN.invoke(app, arguments)
    assert again.exit_code == 2
    assert "file-exists" in again.stderr
    bundle = noise_bundle(tmp_path / "bundle")
    for _ in range(2):
        done = RUN.invoke(
            app, ["fleet", "publish", str(bundle.path), "--dir", str(folder), "--json"]
        )
        assert json.loads(done.stdout)["release"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["enroll", "k", "--board", "toaster"], 2, "unknown-board"),
        (["enroll", "k", "--board", "nucleo-f446re"], 2, "wrong-board"),
        (["token", "k", "--board", "nucleo-f446re"], 2, "wrong-board"),
        (["enroll", "a/b", "--board", "raspberry-pi-5"], 2, "bad-name"),
        (["enroll", "k2", "--board", "raspberry-pi-5", "--label", "x"], 2, "bad-label"),
        (["revoke", "nobody"], 2, "no-such-device"),
        (["publish", "/nowhere"], 2, "no-such-file"),
        (["devices"], 1, "controller-unreachable"),
        (["devices", "site in lyon"], 2, "bad-selector"),
        (["query", "all", "classify", "hello"], 1, "controller-unreachable"),
        (["query", "all", "sing", "hello"], 2, "bad-query"),
        (["rollout", "create", "m", "1.0.0"], 1, "controller-unreachable"),
        (["rollout", "create", "m", "1.0.0", "--allow-empty"], 1, "controller-unreachable"),
        (["rollout", "create", "m", "1.0"], 2, "bad-rollout"),
        (["rollout", "create"], 2, "bad-rollout"),
        (["rollout", "create", "m", "1.0.0", "--waves", "50%,10%"], 2, "bad-rollout"),
        (["rollout", "create", "m", "1.0.0", "--waves", "x"], 2, "bad-waves"),
        (["rollout", "create", "--file", "/nowhere"], 2, "no-such-file"),
        (["rollout", "create", "m", "1.0.0", "--set", "gates=1"], 2, "bad-rollout"),
    ],
)
def test_a_wrong_command_is_one_line_and_the_right_code(
    folder: Path, arguments: list[str], code: int, says: str
) -> None:
    """2 when the caller must change something, 1 when it may work later."""
    result = RUN.invoke(app, ["fleet", *arguments, "--dir", str(folder)])
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("schema", "code"),
    [(b'{"enum": ["\\ud800"]}', "bad-text"), (b"[" * 100_000, "bad-schema"),
     (b"\xff", "bad-schema"), (b" " * 1_100_000, "too-large")],
)  # fmt: skip
def test_a_schema_that_is_none_is_not_sent(
    folder: Path, tmp_path: Path, schema: bytes, code: str
) -> None:
    """The command finds it; no controller is asked."""
    path = tmp_path / "schema.json"
    path.write_bytes(schema)
    arguments = ["query", "all", "generate", "a", "--json-schema", str(path)]
    result = RUN.invoke(app, ["fleet", *arguments, "--dir", str(folder)])
    assert result.exit_code == 2, result.output
    assert f"[{code}]" in result.stderr and "Traceback" not in result.output


def test_a_folder_that_is_no_fleet_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    result = RUN.invoke(app, ["fleet", "devices", "--dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "shoal fleet init" in result.stderr
    (tmp_path / "file").write_text("mine")
    result = RUN.invoke(app, ["fleet", "init", str(tmp_path)])
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_boards_are_listed_and_checked(tmp_path: Path) -> None:
    """`check` says which boards hold a bundle, and fails for one that does not."""
    bundle = noise_bundle(tmp_path / "bundle")
    listed = json.loads(RUN.invoke(app, ["boards", "list", "--json"]).stdout)
    assert {"raspberry-pi-5", "jetson-orin-nano"} <= {one["name"] for one in listed}
    checked = RUN.invoke(app, ["boards", "check", str(bundle.path), "--json"])
    assert json.loads(checked.stdout)["raspberry-pi-5"] == []
    wrong = RUN.invoke(app, ["boards", "check", str(bundle.path), "--board", "toaster"])
    assert wrong.exit_code == 2


def test_sharing_processes_are_not_put_on_the_embedded_broker(tmp_path: Path) -> None:
    """It fails with them (ADR 31): refused before anything is started."""
    RUN.invoke(app, ["fleet", "init", str(tmp_path / "fleet"), "--api-port", "1"])
    config = tmp_path / "fleet" / "fleet.yaml"
    config.write_text(config.read_text() + "shared_ingest: true\n")
    result = RUN.invoke(app, ["fleet", "serve", "--embedded-broker", "--dir", str(config.parent)])
    assert result.exit_code == 2
    assert "shared_ingest: true needs mosquitto" in result.stderr
    assert "Traceback" not in result.stderr


def test_commands_that_are_printed_can_be_typed_where_a_path_has_blanks(tmp_path: Path) -> None:
    """The words of the next command are those of the folder that was named."""
    folder = tmp_path / "my fleet, that's it"
    done = RUN.invoke(app, ["fleet", "init", str(folder)])
    assert done.exit_code == 0, done.stderr
    command = done.stdout.splitlines()[-1].removeprefix("Next: ")
    assert shlex.split(command) == ["shoal", "fleet", "up", "--dir", str(folder)]
    missing = RUN.invoke(app, ["fleet", "devices", "--dir", str(tmp_path / "my other")])
    assert shlex.quote(str(tmp_path / "my other")) in missing.stderr
