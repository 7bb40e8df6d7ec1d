"""A generate bundle, loaded: a request in, pieces of text and totals out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from agent.generate.cache_engine import open_engine
from agent.generate.confidence import Confidence
from agent.generate.constraint import Constraint, ConstraintFactory, is_constrained
from agent.generate.decoder import Decoder, Embedding, plain_signatures
from agent.generate.drafts import Steps
from agent.generate.prefix_cache import PrefixCache
from agent.generate.prompts import Prompts
from agent.generate.sampling import Sampler, SamplingOptions, top_logprobs
from agent.generate.stop import Stop
from agent.generate.text_stream import TextStream
from agent.generate.tools import Calling
from agent.generate.totals import Totals
from agent.runtime.model import Options
from contracts.adapter import Adapter
from contracts.answers import CallPiece, FinishReason, Generated, Selftested
from contracts.bundle import Bundle
from contracts.chat.call_forms import CallForm
from contracts.errors import InputError, RefusedError
from contracts.manifest import GeneratorFacts, Manifest
from contracts.messages import BundleRef
from contracts.requests import GenerateRequest

_PREFIX = "\x00prefix"
"""Name of the shared beginning of chats; not a legal session name."""


@dataclass(frozen=True)
class Adapted:
    """An adapter of a generator, to be used with it.

    Attributes:
        ref: the adapter's bundle.
        facts: the generator's, with the adapter's texts.
        adapter: its matrices.
    """

    ref: BundleRef
    facts: GeneratorFacts
    adapter: Adapter


class GenerativeModel:
    """A loaded generator. One thread at a time.

    Args:
        bundle: a generate bundle; its files are checked against the manifest here.
        options: runtime, threads, and the file for packed weights.
        clock: seconds, monotonic.

    Raises:
        InputError: ``wrong-task``, ``bundle-corrupt``, ``bad-manifest``.
        RefusedError: ``model-failed``.
        UnavailableError: ``no-runtime``.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: Options | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        options = options or Options()
        self.manifest: Manifest = bundle.manifest
        if self.manifest.task != "generate" or self.manifest.generator is None:
            raise InputError("wrong-task", f"{bundle.path} is a {self.manifest.task} bundle")
        self.facts: GeneratorFacts = self.manifest.generator
        self.ref: BundleRef = bundle.ref
        self._clock = clock
        plain = plain_signatures(self.manifest, self.facts)
        self.prompts = Prompts(bundle, self.facts)
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        folder = bundle.path
        if not folder.is_dir():  # the runtime and the table are mapped, which needs files
            self._unpacked = tempfile.TemporaryDirectory(prefix="shoal-")
            folder = Path(self._unpacked.name)
            for name in (self.manifest.model.file, self.facts.embedding):
                (folder / name).write_bytes(bundle.read(name))
        elif options.cache is None or not options.cache.is_file():
            # With packed weights beside the release this is no first load: the files were
            # checked then, and hashing them again would cost more than the load.
            bundle.check(self.manifest.model.file)
            bundle.check(self.facts.embedding)
        embedding = Embedding(np.memmap(folder / self.facts.embedding, np.uint8, "r"), self.facts)
        engine = open_engine(
            folder / self.manifest.model.file,
            runtime=options.runtime,
            wanted=self.manifest.model.runtimes,
            threads=options.threads,
            cache=options.cache,
            whole=() if options.cache or options.lean else plain,
        )
        self.runtime = engine.name
        self.decoder = Decoder(engine, embedding, self.facts)
        try:
            self.decoder.load()
        except BaseException:
            self.decoder.close()
            raise
        self.prefixes = PrefixCache()
        self._own = self.ref, self.facts

    @property
    def own(self) -> tuple[BundleRef, GeneratorFacts]:
        """Identity and facts of the bundle itself, whichever adapter is in use."""
        return self._own

    def _use(self, adapted: Adapted | None) -> None:
        """Answers with an adapter from now on; None: as it is."""
        ref, facts = self._own if adapted is None else (adapted.ref, adapted.facts)
        if ref == self.ref:
            return
        self.decoder.use(None if adapted is None else adapted.adapter)
        self.ref, self.facts, self.prompts.facts = ref, facts, facts
        self.prefixes.owner = "" if adapted is None else ref.manifest_sha256

    # One request ---------------------------------------------------------------------------

    def generate(
        self,
        request: GenerateRequest,
        emit: Callable[[str], None] = lambda piece: None,
        checkpoint: Callable[[], None] = lambda: None,
        *,
        adapted: Adapted | None = None,
        tell: Callable[[CallPiece], None] = lambda piece: None,
    ) -> Generated:
        """Answers one request.

        Args:
            request: what to generate.
            emit: given each piece of text as it becomes certain, or with `min_confidence` the
                whole at the end; it may raise :class:`Stop`.
            checkpoint: called before every step; it may raise :class:`Stop` or an error.
            adapted: with which adapter.
            tell: given each piece of a call of a tool, after all text.

        Raises:
            InputError: ``empty-prompt``, ``prompt-too-long``, ``bad-constraint``, ``bad-text``,
                ``bad-messages``.
            RefusedError: ``constraint-failed``; the constraint cannot be met.
                ``budget-ended``; the tokens or the time ended before the constraint was met.
                ``model-failed``; the runtime would not run it, or it gave what is no number.
        """
        self._use(adapted)
        said = len(request.messages or [])
        if request.when_full == "forget":
            request = self.prompts.remembering(request, self.decoder.capacity)
        if request.tool_choice == "none":
            request = msgspec.structs.replace(request, tools=[])
        confidence = Confidence(request, emit, self.facts.calibration, tell)
        if request.tools:
            result = Calling(self, request, checkpoint, self._clock, confidence).answer()
        else:
            ids, stream = self._prompt_ids(request), TextStream(self.prompts.decode, request.stop)
            result = self.answer(request, ids, stream, confidence.push, confidence, checkpoint)
        result = confidence.judged(result)
        return msgspec.structs.replace(result, forgotten=said - len(request.messages or []))

    def answer(
        self,
        request: GenerateRequest,
        ids: list[int],
        stream: TextStream,
        emit: Callable[[str], None],
        confidence: Confidence,
        checkpoint: Callable[[], None],
        form: CallForm | None = None,
    ) -> Generated:
        """What follows `ids`, as :meth:`generate`; not judged yet.

        `stream` takes the answer's tokens; a call of `form` may begin in place of its format.
        """
        totals = Totals(self._clock())
        totals.prompt_tokens = len(ids)
        room = self.decoder.capacity - len(ids)
        if room < 1:
            raise InputError(
                "prompt-too-long",
                f"the prompt has {len(ids)} tokens; at most {self.decoder.capacity - 1} fit",
                tokens=len(ids),
            )
        outside = [t for t in map(int, request.logit_bias) if t >= self.facts.vocabulary]
        if outside:
            raise InputError(
                "bad-message",
                f"logit_bias: {outside[0]} is no token: the model has {self.facts.vocabulary}",
            )
        constraint = None
        if is_constrained(request, self.facts):
            constraint = self.constraints.of(request, self.facts, form)
        reason: FinishReason
        try:
            limit = None
            if request.max_time_ms is not None:
                limit = totals.started + request.max_time_ms / 1000
            reason = self._run(
                request, ids, min(request.max_tokens, room), limit, constraint,
                stream, totals, emit, confidence, checkpoint,
            )  # fmt: skip
        except Stop as stop:
            reason = stop.reason
        except RefusedError as error:
            if error.code == "model-failed":
                self.prefixes.clear()
                self.decoder.forget()
            raise
        if (piece := stream.finish()) and reason != "cancelled":
            emit(piece)
        if constraint is not None and reason in ("length", "time") and not constraint.complete:
            raise RefusedError(
                "budget-ended",
                f"{totals.tokens} tokens were generated when the "
                f"{'time' if reason == 'time' else 'token budget'} ended, and the output is not "
                "complete: ask for more tokens or time",
                text=stream.text[:2000],
            )
        if request.session is not None:
            self.prefixes.keep(request.session, self.decoder)
        if request.logprobs and stream.stopped:  # nobody reads the tokens of a stop string
            del totals.chosen[stream.tokens :], totals.logprobs[stream.tokens :]
        return totals.result(self.ref, stream.text, reason, self._clock())

    def _prompt_ids(self, request: GenerateRequest) -> list[int]:
        if (request.prompt is None) == (request.messages is None):
            raise InputError("bad-message", "a request needs either prompt or messages")
        if request.prompt is None:
            return self.prompts.encode_chat(request.messages or [], request.chat_template_kwargs)
        if request.chat_template_kwargs:
            raise InputError("bad-message", "chat_template_kwargs need messages")
        return self.prompts.encode(request.prompt)

    @cached_property
    def constraints(self) -> ConstraintFactory:
        """What holds an answer to a form."""
        return ConstraintFactory(
            self.prompts.tokenizer_json(), self.facts.vocabulary, self.prompts.eos_ids
        )

    def _run(
        self,
        request: GenerateRequest,
        ids: list[int],
        budget: int,
        limit: float | None,
        constraint: Constraint | None,
        stream: TextStream,
        totals: Totals,
        emit: Callable[[str], None],
        confidence: Confidence,
        checkpoint: Callable[[], None],
    ) -> FinishReason:
        def check() -> None:
            checkpoint()
            if limit is not None and self._clock() >= limit:
                raise Stop("time")

        check()
        known = self.prefixes.prepare(self.decoder, ids)
        self.decoder.prefill(ids[known:-1], checkpoint=check)
        self._keep_prefix(request)
        sampling = SamplingOptions.of(request)
        sampler = Sampler(sampling)
        steps = Steps(
            self.decoder,
            ids,
            budget,
            (list) if constraint is None else constraint.forced,
            self._clock,
            guessing=sampling.plain and not request.logprobs,
        )
        try:
            return self._grow(
                request, ids, budget, constraint, stream, totals, emit, confidence, check,
                sampler, steps,
            )  # fmt: skip
        finally:
            steps.finish()
            totals.runs = steps.runs

    def _grow(
        self,
        request: GenerateRequest,
        ids: list[int],
        budget: int,
        constraint: Constraint | None,
        stream: TextStream,
        totals: Totals,
        emit: Callable[[str], None],
        confidence: Confidence,
        check: Callable[[], None],
        sampler: Sampler,
        steps: Steps,
    ) -> FinishReason:
        token = ids[-1]
        answer: list[int] = []
        while True:
            check()
            logits = steps.after(token)
            allowed = None if constraint is None else constraint.allowed()
            logits = steps.settled(token, logits, allowed)
            token = sampler.pick(logits, ids + answer, allowed, answer)
            if totals.first_token is None:
                totals.first_token = self._clock()
            confidence.note(logits, token)
            if token in self.prompts.eos_ids:
                return "stop"
            if constraint is not None:
                constraint.accept(token)
            answer.append(token)
            totals.tokens += 1
            if request.logprobs:
                best, taken = top_logprobs(logits, request.logprobs, token)
                first = totals.tokens == 1
                texts = [(self.prompts.shown(i, first=first), p) for i, p in (taken, *best)]
                totals.chosen.append(texts[0])
                totals.logprobs.append(texts[1:])
            if piece := stream.push(token):
                emit(piece)
            if stream.stopped or (constraint is not None and constraint.ended):
                return "stop"
            if totals.tokens >= budget:
                return "length"

    def _keep_prefix(self, request: GenerateRequest) -> None:
        """Keeps the keys and values of a system prompt, which other chats will share."""
        messages = request.messages or []
        if len(messages) > 1 and messages[0].role == "system":
            self.prefixes.keep(_PREFIX, self.decoder)

    # What every model has --------------------------------------------------------------------

    def probe(self) -> None:
        """Encodes texts that may take a tokenizer long.

        Raises:
            RefusedError: ``bad-tokenizer``.
        """
        self.prompts.probe()

    def warm_up(self, *, adapted: Adapted | None = None) -> None:
        """Loads the tokenizer and runs one token, so that the first request is not the slow one."""
        self._use(adapted)
        self.prompts.load()
        self.decoder.truncate(0)
        self.decoder.step(0)
        self.decoder.truncate(0)

    def selftest(
        self,
        bundle: Bundle,
        checkpoint: Callable[[], None] = lambda: None,
        *,
        adapted: Adapted | None = None,
    ) -> Selftested:
        """Replays the golden vectors: each is a text and its greedy continuation.

        The model is shown the expected tokens, so that one difference is counted once.
        `checkpoint` is called before each run of the model, but for the last of a vector.
        """
        self._use(adapted)
        vectors, passed = bundle.golden(), 0
        for vector in vectors:
            ids = self.prompts.encode(vector.text)
            if not vector.tokens or max(vector.tokens) >= self.facts.vocabulary:
                raise RefusedError("golden-mismatch", "a golden vector has no tokens of the model")
            checkpoint()
            self.decoder.truncate(0)
            self.decoder.prefill(ids[:-1], checkpoint=checkpoint)
            logits = self.decoder.score([ids[-1], *vector.tokens[:-1]])
            passed += bool((logits.argmax(-1) == np.array(vector.tokens)).all())
        self.decoder.truncate(0)
        return Selftested(self.ref, len(vectors), passed, 0, self.runtime)

    def close(self) -> None:
        """Frees the model."""
        self.prefixes.clear()
        self.decoder.close()
        if self._unpacked is not None:
            self._unpacked.cleanup()
