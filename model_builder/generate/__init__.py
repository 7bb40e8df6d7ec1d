"""Generators: importing pretrained decoders, and training small ones on pairs.

Not here: classifiers, and the fine-tuning of what was imported (:mod:`model_builder.tune`).
"""
