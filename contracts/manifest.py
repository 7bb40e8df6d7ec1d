"""The manifest of a bundle: ``manifest.json``, and the documents beside it.

A bundle is a folder, or the same as an uncompressed zip (``.shoal``). Every file that it
needs is listed in the manifest by path, sha256 and size; the manifest itself is a TUF target.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from contracts import limits
from contracts.chances import Knot
from contracts.errors import InputError
from contracts.histogram import Histogram
from contracts.messages import BundleRef, Count, Label, Name, Sha256, Version
from contracts.text import NgramConfig

SCHEMA = 2
"""The newest that is read. What an older reader would answer wrongly has a newer one: 2 is that of
classifiers that give a text several labels; all others have 1."""

SEVERAL_SCHEMA: Final = 2
Task = Literal["classify", "generate"]

EMBEDDING: Final = "sentence"
"""The output of a classifier's signatures, after the logits, that is the text's embedding:
float32 [1, H] of length 1. Encoders have it."""

Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Cut = Annotated[int, msgspec.Meta(ge=-128, le=127)]


class FileEntry(msgspec.Struct, frozen=True):
    """A file of the bundle: a plain name (no folders), its sha256 and size in bytes."""

    path: Name
    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_BUNDLE_BYTES)]


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor at the model's border. `scale` 0 means that it is not quantised."""

    name: str
    shape: list[int]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


class SignatureSpec(msgspec.Struct, frozen=True):
    """A signature of the model file: inputs and outputs in the order of the signature."""

    name: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


class ModelFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of the model file.

    Attributes:
        file: its name in the bundle.
        quantization: ``int8`` (full integer), ``dynamic-int8`` (int8 weights),
            ``dynamic-int4`` (most weights in half a byte), ``float32``.
        signatures: at least one.
        operators: names of the TFLite operators, sorted.
        parameters: weights, counted once.
        arena_bytes: tensor arena measured by TensorFlow Lite Micro; None: it cannot run there.
        peak_rss_bytes: memory that loading and running added, measured by the builder.
        runtimes: which runtimes the builder ran it on; a device must have one of them.
    """

    file: Name
    quantization: Literal["int8", "dynamic-int8", "dynamic-int4", "float32"]
    signatures: list[SignatureSpec]
    operators: list[str]
    parameters: Count
    arena_bytes: Count | None = None
    peak_rss_bytes: Count | None = None
    runtimes: list[Literal["litert", "tflite-runtime", "tflm"]] = []


class NgramFrontEnd(msgspec.Struct, frozen=True, tag="hashed-ngrams", tag_field="kind"):
    """Hashed n-grams: see :mod:`contracts.text`."""

    config: NgramConfig


class TokenizerFrontEnd(
    msgspec.Struct, frozen=True, tag="tokenizer", tag_field="kind", omit_defaults=True
):
    """A Hugging Face ``tokenizer.json``.

    Attributes:
        file: its name in the bundle.
        lengths: token counts that the model has a signature for, ascending (classification).
        pad_id: the id that fills the rest.
        chat_template: Jinja2 template of a chat, where the model has one (generation).
        bos_id, eos_ids: special ids (generation).
    """

    file: Name
    lengths: list[int] = []
    pad_id: int = 0
    chat_template: str | None = None
    bos_id: int | None = None
    eos_ids: list[int] = []


class AlphabetFrontEnd(msgspec.Struct, frozen=True, tag="alphabet", tag_field="kind"):
    """Characters by id, for tiny generators; id 0 ends a text."""

    characters: Annotated[str, msgspec.Meta(min_length=2, max_length=256)]


class BaseFrontEnd(msgspec.Struct, frozen=True, tag="base", tag_field="kind"):
    """That of the base, for an adapter."""


class Classifier(msgspec.Struct, frozen=True, omit_defaults=True):
    """What turns the model's output into an answer.

    Logits are ``(q - zero_point) * scale``; the confidence is the largest entry of
    ``softmax(logits / temperature)``; below `threshold` the answer is ``unknown``.

    With `cuts` a text may have several labels, or none: each whose int8 output is at least its
    cut. Integers are compared, so every device gives the same labels; how sure one is is
    ``sigmoid(logit / temperature)``, and `threshold` is not used. Such a manifest has schema 2.

    Attributes:
        labels: in the order of the model's outputs.
        cuts: one for each label; none: a text has one label.
    """

    labels: Annotated[list[Label], msgspec.Meta(min_length=2, max_length=limits.MAX_LABELS)]
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    threshold: Ratio = 0.0
    cuts: Annotated[list[Cut], msgspec.Meta(max_length=limits.MAX_LABELS)] = []


AdapterTarget = Literal["q", "k", "v", "o", "gate", "up", "down"]
"""A matrix of a decoder's block that an adapter changes."""

MAX_ADAPTER_RANK: Final = 64


class AdapterRoom(msgspec.Struct, frozen=True):
    """What a generator takes of adapters.

    Every signature is there twice. The name of the second ends in ``_a{rank}``, and it has
    constants whose place an adapter takes before the signature is prepared:
    ``lora_a_{site}_{i}`` int8 ``[n * rank, inputs]`` with a scale for each row, and
    ``lora_b_{site}_{i}`` int8 ``[outputs, n * rank]`` for the sites ``qkv`` (n = 3), ``o``,
    ``gate_up`` (n = 2) and ``down``; each site gives ``B A x`` more.

    Attributes:
        rank: the highest that it takes.
        heads: of the queries.
        hidden: width of the feed-forward part.
        basis: file that says in which basis the matrices lie, for whoever makes adapters.
    """

    rank: Annotated[int, msgspec.Meta(ge=1, le=MAX_ADAPTER_RANK)]
    heads: Annotated[int, msgspec.Meta(ge=1, le=512)]
    hidden: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    basis: Name


class AdapterFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """An adapter: matrices of low rank that change what a base gives.

    Its file is the length of a header (uint32, little-endian), the header, JSON: a list of
    ``[layer, target, rank]``, and for each A ``[rank, inputs]`` and then B, transposed,
    ``[rank, outputs]``: int8 values, then a float32 scale for each row, little-endian. The
    adapter's own scale is in B, and both are in the basis of the base's matrices.

    Attributes:
        base: the bundle that it belongs to; it serves with no other.
        rank: the highest of its matrices.
        targets: that it changes.
        prompt_prefix, prompt_suffix, grammar: in place of the base's, as in ``GeneratorFacts``.
            None: those of the base.
    """

    base: BundleRef
    rank: Annotated[int, msgspec.Meta(ge=1, le=MAX_ADAPTER_RANK)]
    targets: Annotated[list[AdapterTarget], msgspec.Meta(min_length=1, max_length=7)]
    prompt_prefix: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    prompt_suffix: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    grammar: Annotated[str, msgspec.Meta(max_length=64 * 1024)] | None = None


Sizes = Annotated[list[Annotated[int, msgspec.Meta(ge=2, le=4096)]], msgspec.Meta(max_length=8)]


class GeneratorFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a generative model is run; see ``docs/generation.md``.

    The model file has the signatures ``decode_{C}``, ``prefill_{T}_{C}`` and ``score_{T}_{C}``
    for each context size C, and ``prompt_{T}`` for an empty cache. Keys and values are
    ``[kv_heads, C, head_size]`` a layer, kept by the host; signatures give the new slices alone,
    in float32.

    With an int8 cache the first three are ``decode8_{C}`` and so on, so that an agent that does
    not know it refuses the bundle. Each vector of ``head_size`` then has a scale, its largest
    magnitude / 127, in float32: ``k_scale_{i}`` and ``v_scale_{i}`` ``[kv_heads, C, 1]``.

    Attributes:
        vocabulary, width, layers, kv_heads, head_size: the decoder's shape.
        rope_base: of the rotary position embedding, which the host computes; 0 where
            `rope_frequencies` says more, so that an agent that does not know them refuses.
        rope_frequencies: radians a position for each pair of a head, ``head_size / 2`` of them;
            twice as many where some layers turn otherwise, theirs last, for the inputs
            ``cos_local`` and ``sin_local`` that every signature then has.
        rope_scale: of its cosines and sines.
        contexts: context sizes, ascending; the cache grows from one to the next.
        cache: how the host keeps keys and values.
        prompt: token counts T of the signatures for an empty cache, ascending.
        prefill: token counts T of the prefill signatures, ascending.
        score: token counts T of the signatures with logits for every token.
        embedding: file with the embedding table: int8 ``[vocabulary, width]``, then float32
            scales ``[vocabulary]``, little-endian; a token's row is ``values * scale``.
        prompt_prefix, prompt_suffix: text around a prompt, for models trained on pairs.
        grammar: Lark grammar that constrains the output by default (llguidance); in it
            ``@PROMPT@`` stands for the prompt as a JSON string, quotes, backslashes and control
            characters replaced by spaces, so that what is copied out of it is valid in JSON.
            ``@PIECES@`` stands for its words, numbers, spaces and other characters as a JSON
            list.
        adapters: what it takes of adapters; None: none.
        calibration: from a greedy answer's confidence to the chance that it is exactly right.
        placed: the score signatures are ``placed_{T}_{C}``, with logits as of one token at a
            time; their input ``place`` ``[kv_heads, C, T]`` is 1 where a token comes to lie.
    """

    vocabulary: Annotated[int, msgspec.Meta(ge=2, le=1 << 20)]
    width: Annotated[int, msgspec.Meta(ge=1, le=16384)]
    layers: Annotated[int, msgspec.Meta(ge=1, le=256)]
    kv_heads: Annotated[int, msgspec.Meta(ge=1, le=512)]
    head_size: Annotated[int, msgspec.Meta(ge=2, le=1024)]
    rope_base: Annotated[float, msgspec.Meta(ge=0, lt=1e9)]
    contexts: Annotated[
        list[Annotated[int, msgspec.Meta(ge=8, le=1 << 20)]],
        msgspec.Meta(min_length=1, max_length=16),
    ]
    embedding: Name
    cache: Literal["float32", "int8"] = "float32"
    rope_frequencies: Annotated[
        list[Annotated[float, msgspec.Meta(ge=0, lt=1e4)]], msgspec.Meta(max_length=1024)
    ] = []
    rope_scale: Annotated[float, msgspec.Meta(gt=0, lt=1e4)] = 1.0
    prompt: Sizes = []
    prefill: Sizes = []
    score: Sizes = []
    prompt_prefix: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    prompt_suffix: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    grammar: Annotated[str, msgspec.Meta(max_length=64 * 1024)] | None = None
    adapters: AdapterRoom | None = None
    calibration: Annotated[list[Knot], msgspec.Meta(max_length=32)] = []
    placed: bool = False

    def turns(self) -> list[list[float]]:
        """Radians a position for each pair of a head; of local layers too, if they differ.

        Raises:
            InputError: ``bad-manifest``.
        """
        half = self.head_size // 2
        found = self.rope_frequencies
        if not found and self.rope_base > 1:
            found = [self.rope_base ** (-i / half) for i in range(half)]
        if len(found) not in (half, 2 * half):
            raise InputError(
                "bad-manifest",
                f"the generator has {len(found)} rotary frequencies; expected {half}",
            )
        return [found[at : at + half] for at in range(0, len(found), half)]

    def signature(
        self,
        kind: Literal["decode", "prefill", "prompt", "score"],
        tokens: int,
        context: int,
        *,
        adapted: bool = False,
    ) -> str:
        """The name of a signature; with `adapted`, of the one that takes an adapter."""
        end = f"_a{self.adapters.rank}" if adapted and self.adapters is not None else ""
        if kind == "prompt":
            return f"prompt_{tokens}{end}"
        kept = "8" if self.cache == "int8" else ""
        sizes = f"{context}" if kind == "decode" else f"{tokens}_{context}"
        name = "placed" if kind == "score" and self.placed else kind
        return f"{name}{kept}_{sizes}{end}"


class Golden(msgspec.Struct, frozen=True):
    """The golden vectors of the bundle and what a device must reach on them.

    Attributes:
        file: JSON, a list of :class:`GoldenVector`.
        count: how many there are.
        max_steps: how far an int8 output may be from the expected one, in steps.
        min_label_agreement: share of vectors whose best label must be the expected one.
    """

    file: Name
    count: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_GOLDEN_VECTORS)]
    max_steps: Count = 1
    min_label_agreement: Ratio = 1.0


class GoldenVector(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input with its expected output.

    Attributes:
        text: the input, through the front end.
        output: int8 outputs of a classifier, in the order of the labels.
        label: the expected best label (by the model's output, before the threshold).
        tokens: for a generator, the ids of a greedy continuation.
    """

    text: str
    output: list[int] = []
    label: str = ""
    tokens: list[int] = []


class Baseline(msgspec.Struct, frozen=True):
    """Distributions on the test split, for drift: share of each label, and confidences.

    Where a text may have several labels, the shares are of texts and add up to more than 1.
    """

    labels: dict[Label, Ratio]
    confidence: Histogram


class Lineage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a version learned of the field.

    Attributes:
        after: the version that ran before; empty: not said.
        texts: labelled texts of the field that it learned.
        lessons: lessons that devices were taught and whose examples it learned, by label.
    """

    after: str = ""
    texts: Annotated[int, msgspec.Meta(ge=0)] = 0
    lessons: dict[str, int] = {}


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a bundle comes from: digests of what went in, versions, seed."""

    recipe_sha256: str = ""
    data_sha256: str = ""
    teacher: str = ""
    teacher_sha256: str = ""
    seed: int = 0
    versions: dict[str, str] = {}
    lineage: Lineage | None = None


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """``manifest.json``."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA)]
    name: Name
    version: Version
    task: Task
    files: Annotated[
        list[FileEntry], msgspec.Meta(min_length=1, max_length=limits.MAX_BUNDLE_FILES)
    ]
    model: ModelFacts
    front_end: NgramFrontEnd | TokenizerFrontEnd | AlphabetFrontEnd | BaseFrontEnd
    golden: Golden
    classifier: Classifier | None = None
    generator: GeneratorFacts | None = None
    adapter: AdapterFacts | None = None
    boards: list[Name] = []
    metrics: dict[str, Any] = {}
    baseline: Baseline | None = None
    provenance: Provenance = Provenance()

    def ref(self, manifest_sha256: str) -> BundleRef:
        """This bundle as a reference."""
        return BundleRef(self.name, self.version, manifest_sha256)

    @property
    def slot(self) -> str:
        """Where it goes unless somebody says otherwise: an adapter stands beside its base."""
        return self.task if self.adapter is None else self.name

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, without the manifest."""
        return sum(entry.size for entry in self.files)
