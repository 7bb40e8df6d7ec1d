"""Writes the C pack of a bundle: sources of two engines, front end, labels, golden vectors."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np

from contracts.board import Board
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.manifest import GoldenVector, Manifest, NgramFrontEnd
from contracts.text import ngram_ids
from model_builder import tflm
from model_builder.export_c import tflm_glue
from model_builder.export_c.engine import Engine, table
from model_builder.export_c.graph import INT8, Graph, read

_FIXED: Final = (
    "Makefile",
    "shoal_kernels.h",
    "shoal_kernels.c",
    "shoal_ngrams.h",
    "shoal_ngrams.c",
    "golden_main.c",
    "qemu/startup.c",
    "qemu/mps2.ld",
)


def c_string(text: str) -> str:
    """`text` as a C string literal of its UTF-8 bytes.

    Octal escapes have at most three digits, so that no following character joins them.
    """
    parts = []
    for byte in text.encode():
        plain = 0x20 <= byte < 0x7F and chr(byte) not in '"\\?'
        parts.append(chr(byte) if plain else f"\\{byte:03o}")
    return '"' + "".join(parts) + '"'


def _check(bundle: Bundle) -> NgramFrontEnd:
    front = bundle.manifest.front_end
    if not isinstance(front, NgramFrontEnd) or bundle.manifest.classifier is None:
        raise InputError(
            "not-for-c",
            f"{bundle.path}: the C pack is for classifiers with hashed n-grams; "
            "this bundle has another task or front end",
        )
    return front


def _bundle_header(manifest: Manifest) -> str:
    assert manifest.classifier is not None
    return f"""\
/* {manifest.name} {manifest.version}: text in, label out. */
#ifndef SHOAL_BUNDLE_H
#define SHOAL_BUNDLE_H

#include <stddef.h>
#include <stdint.h>

#define SHOAL_BUNDLE_NAME {c_string(manifest.name)}
#define SHOAL_BUNDLE_VERSION {c_string(manifest.version)}
#define SHOAL_LABEL_COUNT {len(manifest.classifier.labels)}

extern const char *const shoal_labels[SHOAL_LABEL_COUNT];

/* Front end: 0; 1 when the text was longer than the model's window; -1 when it is refused, or the
 * model cannot be loaded. */
int shoal_prepare(const char *text, size_t size);

/* Model: 0, or -1 when it cannot run. */
int shoal_run(void);

/* int8 scores of the labels after shoal_run(). A logit is (score - {{zero}}) * {{scale}}. */
const int8_t *shoal_scores(void);

/* All of it: the index of the best label, or -1. */
int shoal_classify(const char *text, size_t size);
{_several_header(manifest)}
#endif
"""


def _several_header(manifest: Manifest) -> str:
    if manifest.classifier is None or not manifest.classifier.cuts:
        return ""
    return """
/* A text may have several labels, or none: each whose score is at least its cut. */
#define SHOAL_SEVERAL 1

extern const int8_t shoal_cuts[SHOAL_LABEL_COUNT];

/* All of it: writes the labels that the text has, by their indexes in ascending order, and gives
 * how many they are; 0: none is over its cut. -1 as above. `found` has room for all. */
int shoal_classify_several(const char *text, size_t size, int found[SHOAL_LABEL_COUNT]);
"""


def _several_source(manifest: Manifest) -> str:
    if manifest.classifier is None or not manifest.classifier.cuts:
        return ""
    cuts = ", ".join(map(str, manifest.classifier.cuts))
    return f"""
const int8_t shoal_cuts[SHOAL_LABEL_COUNT] = {{{cuts}}};

int shoal_classify_several(const char *text, size_t size, int found[SHOAL_LABEL_COUNT])
{{
    const int8_t *scores;
    int count = 0;
    if (shoal_prepare(text, size) < 0 || shoal_run() != 0) {{
        return -1;
    }}
    scores = shoal_scores();
    for (int i = 0; i < SHOAL_LABEL_COUNT; i++) {{
        if (scores[i] >= shoal_cuts[i]) {{
            found[count++] = i;
        }}
    }}
    return count;
}}
"""


def _bundle_source(manifest: Manifest, front: NgramFrontEnd) -> str:
    assert manifest.classifier is not None
    config = front.config
    labels = table("char *const", "shoal_labels", map(c_string, manifest.classifier.labels))
    labels = labels.replace("static const char *const", "const char *const", 1)
    return f"""\
#include "shoal_bundle.h"

#include "model.h"
#include "shoal_ngrams.h"

{labels}
static const shoal_ngram_config config = {{
    {config.buckets}u, {config.length}, {config.char_min}, {config.char_max}, {int(config.pairs)},
    {int(config.marks)}}};

int shoal_prepare(const char *text, size_t size)
{{
    int32_t *ids = shoal_input_0();
    return ids == NULL ? -1 : shoal_ngram_ids(&config, text, size, ids);
}}

int shoal_run(void)
{{
    return shoal_invoke();
}}

const int8_t *shoal_scores(void)
{{
    return shoal_output_0();
}}

int shoal_classify(const char *text, size_t size)
{{
    const int8_t *scores;
    int best = 0;
    if (shoal_prepare(text, size) < 0 || shoal_run() != 0) {{
        return -1;
    }}
    scores = shoal_scores();
    for (int i = 1; i < SHOAL_LABEL_COUNT; i++) {{
        if (scores[i] > scores[best]) {{
            best = i;
        }}
    }}
    return best;
}}
{_several_source(manifest)}"""


def _replayed(bundle: Bundle, model: bytes, front: NgramFrontEnd) -> list[GoldenVector]:
    """The golden vectors with the outputs of TFLite Micro, which the engine equals bit by bit.

    A bundle's own vectors may come from other kernels that differ by a step.

    Raises:
        InputError: ``golden-differs``; a vector is further off than the bundle allows.
    """
    vectors = bundle.golden()
    ids = np.array([ngram_ids(v.text, front.config)[0] for v in vectors], np.int32)
    report, measured = tflm.measure(model, ids)
    if measured is None:
        raise InputError("unsupported-operator", f"TFLite Micro cannot run it: {report.problem}")
    outputs = [[int(value) for value in row] for row in measured]
    for vector, output in zip(vectors, outputs, strict=True):
        steps = max((abs(a - b) for a, b in zip(vector.output, output, strict=False)), default=0)
        if len(vector.output) != len(output) or steps > bundle.manifest.golden.max_steps:
            raise InputError(
                "golden-differs",
                f"the golden vector {vector.text[:60]!r} is {steps} steps from the reference "
                f"kernels; at most {bundle.manifest.golden.max_steps} are allowed",
            )
    return [
        GoldenVector(v.text, output, v.label) for v, output in zip(vectors, outputs, strict=True)
    ]


def _golden(vectors: list[GoldenVector], labels: int) -> tuple[str, str]:
    header = f"""\
#ifndef SHOAL_GOLDEN_H
#define SHOAL_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

#define SHOAL_GOLDEN_COUNT {len(vectors)}

typedef struct {{
    const char *text;
    size_t size;
    int8_t output[{labels}];
}} shoal_golden;

extern const shoal_golden shoal_goldens[SHOAL_GOLDEN_COUNT];

#endif
"""
    rows = [
        f"    {{{c_string(v.text)}, {len(v.text.encode())}, {{{', '.join(map(str, v.output))}}}}}"
        for v in vectors
    ]
    body = ",\n".join(rows)
    source = (
        '#include "golden.h"\n\n'
        f"const shoal_golden shoal_goldens[SHOAL_GOLDEN_COUNT] = {{\n{body}}};\n"
    )
    return header, source


def _board_header(board: Board) -> str:
    return f"""\
/* {board.title} */
#ifndef SHOAL_BOARD_H
#define SHOAL_BOARD_H

#define SHOAL_BOARD_NAME {c_string(board.name)}
#define SHOAL_BOARD_RAM_BYTES {board.ram_bytes}u
#define SHOAL_BOARD_FLASH_BYTES {board.flash_bytes}u
#define SHOAL_BOARD_MODEL_RAM_BYTES {board.model_ram_bytes}u
#define SHOAL_BOARD_MODEL_FLASH_BYTES {board.model_flash_bytes}u

#endif
"""


def model_data(model: bytes) -> tuple[str, str]:
    """``model_data.h`` and ``model_data.c``: the model's bytes, for TFLite Micro."""
    header = (
        "#ifndef SHOAL_MODEL_DATA_H\n#define SHOAL_MODEL_DATA_H\n\n#include <stdint.h>\n\n"
        f"#define SHOAL_MODEL_BYTES {len(model)}\n"
        "extern const uint8_t shoal_model_data[SHOAL_MODEL_BYTES];\n\n#endif\n"
    )
    body = table("uint8_t", "shoal_model_data", model).replace(
        "static const uint8_t shoal_model_data",
        "__attribute__((aligned(16))) const uint8_t shoal_model_data",
        1,
    )
    return header, f'#include "model_data.h"\n\n{body}'


def export(bundle: Bundle, out: Path, *, board: Board | None = None) -> Graph:
    """Writes the C pack of `bundle` into `out`, which is made when missing.

    Args:
        bundle: a classifier with hashed n-grams, full int8.
        out: the folder.
        board: also writes ``board.h`` for it.

    Returns:
        The model's graph.

    Raises:
        InputError: ``not-for-c``, ``not-int8``, ``unsupported-operator``, ``bad-manifest``.
    """
    front = _check(bundle)
    manifest = bundle.manifest
    assert manifest.classifier is not None
    model = bundle.read(manifest.model.file)
    graph = read(model)
    output = graph.tensors[graph.outputs[0]]
    if (
        graph.tensors[graph.inputs[0]].count != front.config.length
        or output.dtype != INT8
        or output.count != len(manifest.classifier.labels)
    ):
        raise InputError(
            "bad-manifest", "the model's input or output is not what the manifest says"
        )
    engine = Engine(graph)
    golden_header, golden_source = _golden(_replayed(bundle, model, front), output.count)
    data_header, data_source = model_data(model)
    arena = manifest.model.arena_bytes
    header = _bundle_header(manifest)
    header = header.replace("{zero}", str(output.zero_point))
    header = header.replace("{scale}", repr(float(output.scales[0])))
    files = {
        "model.h": engine.header(),
        "model.c": engine.source(),
        "shoal_bundle.h": header,
        "shoal_bundle.c": _bundle_source(manifest, front),
        "golden.h": golden_header,
        "golden.c": golden_source,
        "pack.json": json.dumps(
            {
                "name": manifest.name,
                "version": manifest.version,
                "manifest_sha256": bundle.ref.manifest_sha256,
                "c99_arena_bytes": engine.plan.arena_bytes,
                "tflm_arena_bytes": arena,
                "operators": sorted({op.name for op in graph.operators}),
                "temperature": manifest.classifier.temperature,
                "threshold": manifest.classifier.threshold,
                "cuts": manifest.classifier.cuts,
            },
            indent=2,
        )
        + "\n",
    }
    if arena is not None:
        files["tflm/tflm_engine.cc"] = tflm_glue.source(graph, arena)
        files["tflm/model_data.h"] = data_header
        files["tflm/model_data.c"] = data_source
    if board is not None:
        files["board.h"] = _board_header(board)
    fixed = resources.files("model_builder.export_c") / "c"
    for name in _FIXED:
        files[name] = (fixed / name).read_text()
    for name, text in files.items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return graph
