"""TensorFlow, loaded when it is first used: that takes three to five CPU seconds.

Use as ``from model_builder import lazy_tensorflow as tf``. Nothing of it may be used while a
module is imported, but as the base of a class: such modules are imported where they are needed.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from contracts import interpreter


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # what looks through a module's names is no use of it
        raise AttributeError(name)
    if "tensorflow" not in sys.modules:
        with interpreter.loading():  # collecting garbage takes a sixth of the time
            importlib.import_module("tensorflow")
    import tensorflow

    return getattr(tensorflow, name)


def load_quietly() -> None:
    """Loads TensorFlow without the lines that its C++ part prints before it can be told not to.

    They say nothing that a user can act on.
    """
    import absl.logging

    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        __getattr__("zeros")([1]).numpy()  # starts the CPU device, which has its own lines
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
    absl.logging.set_verbosity(absl.logging.ERROR)
