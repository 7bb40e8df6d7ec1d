"""Chat messages to a prompt by the model's own template, within bounds.

Not here: tokenizers and models: it gives the text of a prompt.
"""
