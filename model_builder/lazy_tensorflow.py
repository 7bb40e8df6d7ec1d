"""TensorFlow, loaded when it is first used: that takes three to five CPU seconds.

Use as ``from model_builder import lazy_tensorflow as tf``. Nothing of it may be used while a
module is imported, but as the base of a class: such modules are imported where they are needed.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from contracts import interpreter


def __getattr__(name: str) -> Any:
    if "tensorflow" not in sys.modules:
        with interpreter.loading():  # collecting garbage takes a sixth of the time
            importlib.import_module("tensorflow")
    import tensorflow

    return getattr(tensorflow, name)
