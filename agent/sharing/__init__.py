"""How a hard example may leave its device: by consent, redacted, and written down.

Not here: which examples are hard (:mod:`agent.serving.examples`), and their sending.
"""
