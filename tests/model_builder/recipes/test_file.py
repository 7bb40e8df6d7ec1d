"""What is wrong with a recipe's file is told in one line, at once, whatever it would build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import InputError
from model_builder.recipes import file as recipe_file

EXAMPLES = Path("examples")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("home-intents.yaml", "classify"),
        ("home-commands.yaml", "generate"),
        ("home-commands-smollm2.yaml", "tune"),
        ("status-lines.yaml", "status-lines"),
    ],
)
def test_a_wrong_key_is_refused_before_tensorflow_is_imported(name: str, kind: str) -> None:
    """Whoever mistypes a key does not wait for the import of what would train."""
    assert recipe_file.kind_of(recipe_file.read(EXAMPLES / name)) == kind
    program = (
        "import sys\nfrom model_builder.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('model_builder.recipes.file', 'tensorflow')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "build", str(EXAMPLES / name), "--set", "versoin=1.0.1"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: unknown key versoin; did you mean version?")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "['model_builder.recipes.file']\n"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, without an end, too large, no YAML, no keys."""
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * (1 << 20))
    (tmp_path / "broken.yaml").write_bytes(b"a: [1")
    (tmp_path / "list.yaml").write_bytes(b"- a\n")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for path, code in (
        (tmp_path / "none.yaml", "no-such-file"),
        (tmp_path, "no-such-file"),
        (Path("/dev/zero"), "too-large"),
        (tmp_path / "large.yaml", "too-large"),
        (tmp_path / "broken.yaml", "bad-recipe"),
        (tmp_path / "list.yaml", "bad-recipe"),
        (tmp_path / "binary.yaml", "bad-recipe"),
    ):
        with pytest.raises(InputError) as raised:
            recipe_file.read(path)
        assert raised.value.code == code, (path, raised.value)


@pytest.mark.parametrize("name", ["home-intents.yaml", "home-commands.yaml", "status-lines.yaml"])
def test_a_recipe_may_come_through_a_pipe(name: str) -> None:
    """`shoal build <(...)` works in a shell: its size cannot be asked for, nor it be read twice."""
    text = (EXAMPLES / name).read_text().replace("version: 1.0.0", "version: one")
    done = subprocess.run(
        [sys.executable, "-m", "model_builder", "build", "/dev/stdin"],
        input=text, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "/dev/stdin: " in done.stderr and "version: expected" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("change", "code"),
    [("name", "bad-option"), ("=1", "bad-option"), ("name.x=1", "bad-option"),
     ("data=[", "bad-message")],
)  # fmt: skip
def test_a_change_that_cannot_be_made_is_refused(tmp_path: Path, change: str, code: str) -> None:
    """Not a key and a value, keys below a plain value, no YAML."""
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\n")
    with pytest.raises(InputError) as raised:
        recipe_file.read(path, [change])
    assert raised.value.code == code


def test_the_example_with_a_pretrained_base_is_a_valid_recipe() -> None:
    """It is read, and its rate is what it says."""
    from model_builder.recipes.tune import parse

    path = EXAMPLES / "home-commands-smollm2.yaml"
    recipe, _ = parse(recipe_file.read(path), path)
    assert (recipe.student.adapt, recipe.student.rate) == ("lora", 0.0015)
    assert (EXAMPLES / recipe.handwritten).is_file()
