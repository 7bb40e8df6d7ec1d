"""What int8 costs, layer by layer: each tensor of the int8 model against its float value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_builder import lazy_tensorflow as tf
from model_builder.convert import native_output
from model_builder.students.ngram import NgramStudent


def layer_errors(
    student: NgramStudent, model: bytes, ids: NDArray[np.int32]
) -> list[dict[str, Any]]:
    """Relative error (root mean square of the difference over that of the float) by layer.

    Args:
        student: on its int8 grid; runs in float.
        model: its int8 conversion.
        ids: int32 [N, L] to run both on.

    Returns:
        ``{"layer", "error", "share_of_range"}``, largest error first; `share_of_range` is the
        part of the 256 levels that the data uses.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with native_output():
        interpreter = Interpreter(
            model_content=model,
            num_threads=1,
            # Delegates fuse operators away, and with them the tensors that are wanted.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    expected = {name: value.numpy() for name, value in student.stages(tf.constant(ids)).items()}
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in expected}
    details = [d for d in interpreter.get_tensor_details() if d["dtype"] == np.int8]
    border = interpreter.get_input_details()[0]["index"]
    sources = _outputs_by_operator(interpreter)
    for row in ids:
        interpreter.set_tensor(border, row[None])
        interpreter.invoke()
        for name, index in student.locate(sources).items():
            detail = next(d for d in details if d["index"] == index)
            scale, zero = detail["quantization"]
            raw = interpreter.get_tensor(index).astype(np.float32)
            seen[name].append(((raw - zero) * scale).reshape(-1))
    rows = []
    for name, parts in seen.items():
        if not parts:
            continue
        found = np.stack(parts)
        wanted = expected[name].reshape(len(ids), -1)
        norm = float(np.sqrt((wanted**2).mean())) or 1.0
        error = float(np.sqrt(((found - wanted) ** 2).mean())) / norm
        rows.append({"layer": name, "error": round(error, 5)})
    return sorted(rows, key=lambda row: -row["error"])


def _outputs_by_operator(interpreter: Any) -> list[tuple[str, int]]:
    """Operator name and index of its first output, in the order of the graph."""
    details = interpreter._get_ops_details()  # no public way lists them
    return [
        (str(op["op_name"]), int(op["outputs"][0]))
        for op in details
        if op["op_name"] != "DELEGATE" and len(op["outputs"])
    ]
