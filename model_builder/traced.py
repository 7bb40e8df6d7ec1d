"""Functions that TensorFlow traced, kept for others of the same shape: tracing takes seconds.

A traced function captures the variables that it was traced with. Folds, seeds and plans train the
same graph on variables of their own: those take the place of the captured ones. It also keeps what
it captured, so that each tracing anew would hold one more encoder to the end of the build.

Not here: what a function computes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from model_builder import lazy_tensorflow as tf

_MOST: Final = 8
"""Graphs that are kept; the oldest goes."""

_KEPT: dict[Hashable, tuple[Any, list[int]]] = {}
"""By key and shapes: the function, and which of the variables it takes, in its order."""


class Traced:
    """A function on variables of its caller, traced unless one of the same key is kept.

    Args:
        key: all that the graph depends on, except the variables' values and shapes.
        variables: all that it reads or changes, of TensorFlow or of Keras, always in one order.
        trace: makes the concrete function of them.
    """

    def __init__(self, key: Hashable, variables: Sequence[Any], trace: Callable[[], Any]) -> None:
        # The handle of one of Keras is that of the variable that it wraps.
        own = [v if isinstance(v, tf.Variable) else v.value for v in variables]
        handles = [variable.handle for variable in own]
        whole = (key, tuple(tuple(variable.shape) for variable in own))
        if whole not in _KEPT:
            while len(_KEPT) >= _MOST:
                del _KEPT[next(iter(_KEPT))]
            function = trace()
            place = {id(handle): at for at, handle in enumerate(handles)}
            _KEPT[whole] = function, [place[id(one)] for one in function.captured_inputs]
        self._function, order = _KEPT[whole]
        self._captured = [handles[at] for at in order]

    def __call__(self, *tensors: Any) -> Any:
        """What the function gives for tensors of its signature."""
        self._function.set_external_captures(self._captured)
        return self._function(*tensors)
