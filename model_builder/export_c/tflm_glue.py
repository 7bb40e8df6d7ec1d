"""Glue for TensorFlow Lite Micro: exactly the operators that the model has, and its arena."""

from __future__ import annotations

from contracts.errors import InputError
from model_builder.export_c.graph import Graph

# The resolver's method for each operator (tensorflow/lite/micro/micro_mutable_op_resolver.h).
_METHODS = {
    "ADD": "AddAdd",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "GATHER": "AddGather",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "REDUCE_MAX": "AddReduceMax",
    "RESHAPE": "AddReshape",
    "SOFTMAX": "AddSoftmax",
    "SUB": "AddSub",
}


def source(graph: Graph, arena_bytes: int) -> str:
    """``tflm_engine.cc``: the same three functions as the C99 engine, on TFLM.

    Raises:
        InputError: ``unsupported-operator``; TFLM's resolver is not known to have it.
    """
    names = sorted({op.name for op in graph.operators})
    for name in names:
        if name not in _METHODS:
            raise InputError("unsupported-operator", f"no known resolver method for {name}")
    adds = "\n".join(f"  if (!Ok(resolver.{_METHODS[name]}())) return nullptr;" for name in names)
    # TFLM also keeps its own records in the arena, which differ by target: a fifth more.
    arena = -(-arena_bytes * 6 // 5 // 16) * 16
    return f"""\
// Runs model_data.h in TensorFlow Lite Micro. Same functions as model.h: link one of the two.
#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

extern "C" {{
#include "model.h"
#include "model_data.h"
}}

// TFLM's classes are in tflite or, in builds of 2026, in tflite::micro: found in either.
namespace tflite {{
namespace micro {{}}
}}  // namespace tflite
namespace shoal_tflm {{
using namespace tflite;
using namespace tflite::micro;
using Runtime = MicroInterpreter;
using Operators = MicroMutableOpResolver<{len(names)}>;
}}  // namespace shoal_tflm

namespace {{

constexpr size_t kArenaBytes = {arena};
alignas(16) uint8_t arena[kArenaBytes];

// kTfLiteOk is 0, in whichever namespace.
template <class Status>
bool Ok(Status status) {{
  return static_cast<int>(status) == 0;
}}

shoal_tflm::Runtime* Load() {{
  static shoal_tflm::Operators resolver;
{adds}
  static shoal_tflm::Runtime interpreter(tflite::GetModel(shoal_model_data), resolver, arena,
                                         kArenaBytes);
  return Ok(interpreter.AllocateTensors()) ? &interpreter : nullptr;
}}

shoal_tflm::Runtime* Interpreter() {{
  static shoal_tflm::Runtime* loaded = Load();
  return loaded;
}}

}}  // namespace

extern "C" {{

{_accessors(graph)}
int shoal_invoke(void) {{
  shoal_tflm::Runtime* interpreter = Interpreter();
  return interpreter != nullptr && Ok(interpreter->Invoke()) ? 0 : -1;
}}

}}  // extern "C"
"""


def _accessors(graph: Graph) -> str:
    parts = []
    for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
        for number, index in enumerate(indices):
            dtype = graph.tensors[index].dtype
            parts.append(
                f"{dtype}_t* shoal_{kind}_{number}(void) {{\n"
                f"  shoal_tflm::Runtime* interpreter = Interpreter();\n"
                f"  return interpreter == nullptr ? nullptr\n"
                f"      : interpreter->typed_{kind}_tensor<{dtype}_t>({number});\n}}\n"
            )
    return "\n".join(parts)
