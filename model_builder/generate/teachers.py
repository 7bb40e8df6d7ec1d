"""Sequence-level distillation: a teacher writes the completions that the student learns.

Source: Kim and Rush, "Sequence-Level Knowledge Distillation" (2016).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from contracts import codec
from contracts.errors import InputError, UnavailableError
from model_builder.generate.evaluate import run_generator
from model_builder.generate.pairs import Pair
from model_builder.recipes.generate import TeacherSource


class _Choice(msgspec.Struct):
    text: str


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def complete(
    pairs: list[Pair],
    teacher: TeacherSource,
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Pair]:
    """Pairs whose empty completions are the teacher's; those it gave nothing for are dropped.

    Args:
        pairs: any.
        teacher: who writes.
        folder: what a bundle's path is relative to.
        progress: told how many are done.

    Raises:
        InputError: the teacher cannot be used. UnavailableError: ``teacher-failed``.
    """
    missing = [pair for pair in pairs if not pair.completion]
    if not missing:
        return pairs
    prompts = [pair.prompt for pair in missing]
    if teacher.kind == "self":
        found = run_generator(folder / teacher.source, prompts, teacher.max_tokens)
        texts = ["" if answer is None else answer.text for answer in found]
    else:
        texts = _openai(prompts, teacher, progress)
    written = iter(texts)
    made = [
        pair if pair.completion else msgspec.structs.replace(pair, completion=next(written))
        for pair in pairs
    ]
    return [pair for pair in made if pair.completion]


def _openai(
    prompts: list[str], teacher: TeacherSource, progress: Callable[[int], None]
) -> list[str]:
    key = os.environ.get(teacher.key_variable, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = teacher.source.rstrip("/") + "/completions"
    if not url.startswith(("http://", "https://")):
        raise InputError("bad-recipe", f"teacher.source {teacher.source[:100]!r} is not a URL")
    texts = []
    with httpx.Client(headers=headers, timeout=120) as client:
        for number, prompt in enumerate(prompts, 1):
            body = {"model": teacher.model, "prompt": prompt, "temperature": 0}
            try:
                reply = client.post(url, json={**body, "max_tokens": teacher.max_tokens})
                reply.raise_for_status()
            except httpx.HTTPError as error:
                raise UnavailableError(
                    "teacher-failed", f"{url} did not complete prompt {number}: {error}"
                ) from None
            answer = codec.decode(reply.content, _Completion, what="the teacher's answer")
            texts.append(answer.choices[0].text if answer.choices else "")
            progress(number)
    return texts
