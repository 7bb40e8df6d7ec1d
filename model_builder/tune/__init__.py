"""Fine-tunes a pretrained decoder on pairs: LoRA, or its matrices themselves.

Not here: the decoder's arithmetic, and its conversion (:mod:`model_builder.generate`).
"""
