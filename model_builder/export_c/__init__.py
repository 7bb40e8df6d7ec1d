"""The C pack: a bundle as C sources for a firmware project, with two engines.

:func:`model_builder.export_c.pack.export` writes it; :mod:`model_builder.export_c.measure`
compiles and runs it. One engine is generated C99 without heap, the other is glue for
TensorFlow Lite Micro.

Not here: training, and what a board's own toolchain does.
"""
