"""From a recipe to the bundle of a tiny generator: train, write, test, pack."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from contracts import bundle as bundles
from contracts import codec
from contracts.errors import RefusedError
from contracts.folders import put_folder
from contracts.manifest import (
    AlphabetFrontEnd,
    Golden,
    GoldenVector,
    Manifest,
    ModelFacts,
    Provenance,
    SignatureSpec,
    TensorSpec,
)
from model_builder.convert import native_output
from model_builder.export_c.graph import Graph, read
from model_builder.generate_tiny import task
from model_builder.generate_tiny.flatfile import write
from model_builder.generate_tiny.train import train
from model_builder.recipes.status_lines import Recipe

MAX_PARAMETERS = 260_000
MAX_TOKENS = 96
_ARENA = 256 * 1024


class Stepper:
    """Runs the int8 model with the kernels of TensorFlow Lite Micro, greedily."""

    def __init__(self, model: bytes, alphabet: str) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self._alphabet = alphabet
        self._state = read(model).tensors[read(model).inputs[1]].shape
        with native_output():
            self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=_ARENA)

    def _step(
        self, number: int, state: npt.NDArray[np.int8]
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
        self._interpreter.set_input(np.array([[number]], np.int32), 0)
        self._interpreter.set_input(state, 1)
        self._interpreter.invoke()
        logits = np.array(self._interpreter.get_output(0)[0], np.int8)
        return logits, np.array(self._interpreter.get_output(1), np.int8)

    def tokens(self, prompt: str) -> list[int]:
        """The ids after `prompt`, up to and with the end mark."""
        state = np.zeros(self._state, np.int8)
        logits = np.zeros(0, np.int8)
        for char in prompt:
            logits, state = self._step(self._alphabet.index(char), state)
        found: list[int] = []
        while len(found) < MAX_TOKENS:
            found.append(int(logits.argmax()))
            if found[-1] == 0:
                break
            logits, state = self._step(found[-1], state)
        return found

    def text(self, prompt: str) -> str:
        """The line after `prompt`."""
        return "".join(self._alphabet[i] for i in self.tokens(prompt) if i)


class Quality(msgspec.Struct, frozen=True):
    """How good the lines are on prompts that were not trained on.

    Attributes:
        exact_match: share of lines that are right to the last character.
        parts_right: share of their comma-separated parts that are right and in their place.
        lines: how many were scored.
        wrong: some that are wrong: prompt, expected, found.
    """

    exact_match: float
    parts_right: float
    lines: int
    wrong: list[tuple[str, str, str]] = []


def score(stepper: Stepper, pairs: list[tuple[str, str]]) -> Quality:
    """Scores the int8 model on prompts and their lines."""
    exact = parts = right = 0
    wrong: list[tuple[str, str, str]] = []
    for prompt, status in pairs:
        found = stepper.text(prompt)
        exact += found == status
        expected = status.split(", ")
        parts += len(expected)
        right += sum(a == b for a, b in zip(expected, found.split(", "), strict=False))
        if found != status and len(wrong) < 10:
            wrong.append((prompt, status, found))
    return Quality(exact / len(pairs), right / parts, len(pairs), wrong)


def card(recipe: Recipe, quality: Quality, parameters: int, pairs: list[tuple[str, str]]) -> str:
    """The model card: what it writes, and how often it is right."""
    shown = "\n".join(f"{prompt}{status}" for prompt, status in pairs[:4])
    return (
        f"# {recipe.name} {recipe.version}\n\n"
        "Writes a one-line status about sensor readings, character by character. Its state is an\n"
        "input and an output of the model; all of it is int8.\n\n"
        f"- {parameters} parameters\n"
        f"- {quality.exact_match:.1%} of {quality.lines} lines for unseen readings are right to the"
        f" last character, {quality.parts_right:.1%} of their parts\n"
        "- trained on readings from a generator, not on measured ones: it knows this format of\n"
        "  prompt alone, and writes nonsense about anything else\n\n"
        f"What it was trained to write:\n\n```\n{shown}\n```\n"
    )


def _arena(model: bytes) -> int:
    from tflite_micro.python.tflite_micro import runtime

    with native_output() as said:
        runtime.Interpreter.from_bytes(model, arena_size=_ARENA).print_allocations()
        text = said()
    total = text.split("Arena allocation total ")[1].split(" ")[0]
    return int(total)


def _tensors(graph: Graph, indices: tuple[int, ...], names: tuple[str, ...]) -> list[TensorSpec]:
    found = []
    for index, name in zip(indices, names, strict=True):
        tensor = graph.tensors[index]
        scale = float(tensor.scales[0]) if len(tensor.scales) else 0.0
        found.append(TensorSpec(name, list(tensor.shape), tensor.dtype, scale, tensor.zero_point))
    return found


def package(recipe: Recipe, model: bytes, alphabet: str, parameters: int, out: Path) -> Path:
    """Scores the model on held-out lines and writes the bundle.

    Raises:
        RefusedError: ``too-large``, ``quality``.
    """
    if parameters > MAX_PARAMETERS:
        raise RefusedError("too-large", f"{parameters} parameters, at most {MAX_PARAMETERS}")
    stepper = Stepper(model, alphabet)
    pairs = task.lines(recipe.test_lines, seed=recipe.settings.seed + 1, test=True)
    quality = score(stepper, pairs)
    if quality.exact_match < recipe.min_exact:
        raise RefusedError(
            "quality",
            f"{quality.exact_match:.3f} of {len(pairs)} held-out lines are right, the recipe asks "
            f"for {recipe.min_exact}: train longer, or with a larger state",
        )
    graph = read(model)
    vectors = [GoldenVector(text=p, tokens=stepper.tokens(p)) for p, _ in pairs[:16]]
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out, prefix=f".{recipe.name}."))
    (staging / "model.tflite").write_bytes(model)
    (staging / "golden.json").write_bytes(codec.encode(vectors))
    (staging / "card.md").write_text(card(recipe, quality, parameters, pairs))
    parts = ("model.tflite", "golden.json", "card.md")
    manifest = Manifest(
        schema=1,
        name=recipe.name,
        version=recipe.version,
        task="generate",
        files=bundles.file_entries([staging / part for part in parts]),
        model=ModelFacts(
            file="model.tflite",
            quantization="int8",
            signatures=[
                SignatureSpec(
                    "step",
                    _tensors(graph, graph.inputs, ("ids", "state")),
                    _tensors(graph, graph.outputs, ("logits", "next_state")),
                )
            ],
            operators=sorted({op.name for op in graph.operators}),
            parameters=parameters,
            arena_bytes=_arena(model),
            runtimes=["tflm"],
        ),
        front_end=AlphabetFrontEnd(alphabet),
        golden=Golden("golden.json", len(vectors), max_steps=0),
        metrics={
            "exact_match": quality.exact_match,
            "parts_right": quality.parts_right,
            "test_lines": quality.lines,
        },
        provenance=Provenance(seed=recipe.settings.seed),
    )
    (staging / bundles.MANIFEST).write_bytes(codec.pretty(manifest))
    bundles.Bundle.open(staging).verify()
    target = out / f"{recipe.name}-{recipe.version}"
    staging.chmod(0o755)
    put_folder(staging, target)
    bundles.pack(target, out / f"{target.name}{bundles.SUFFIX}")
    report = {**msgspec.to_builtins(quality), "parameters": parameters,
              "model_bytes": len(model), "arena_bytes": manifest.model.arena_bytes}  # fmt: skip
    (out / f"{target.name}-report.json").write_bytes(codec.pretty(report))
    return target


def build(recipe: Recipe, out: Path, say: Callable[[int, float], None]) -> dict[str, Any]:
    """Trains and packs; returns where the bundle is and its figures."""
    alphabet = task.alphabet()
    cell = train(recipe.settings, alphabet, say)
    bundle = package(recipe, write(cell), alphabet, cell.parameters, out)
    manifest = bundles.Bundle.open(bundle).manifest
    return {"bundle": str(bundle), "name": recipe.name, "version": recipe.version,
            "parameters": cell.parameters, "arena_bytes": manifest.model.arena_bytes,
            **manifest.metrics}  # fmt: skip
