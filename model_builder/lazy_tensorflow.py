"""TensorFlow, loaded when it is first used: that takes three to five CPU seconds.

Use as ``from model_builder import lazy_tensorflow as tf``. Nothing of it may be used while a
module is imported, but as the base of a class: such modules are imported where they are needed.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import tensorflow

    return getattr(tensorflow, name)
