"""A tiny int8 generator for microcontrollers: sensor readings in, a one-line status out.

:mod:`~model_builder.generate_tiny.task` makes texts, :mod:`~model_builder.generate_tiny.cell`
is the recurrent cell with the int8 arithmetic in its training, and
:mod:`~model_builder.generate_tiny.flatfile` writes it as ``.tflite`` with its state as input
and output. :mod:`~model_builder.generate_tiny.build` joins them into a bundle.

Not here: decoders with attention (:mod:`model_builder.generate`).
"""
