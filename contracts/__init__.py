"""What the builder, the agent and the fleet controller agree on.

One module a concept: :mod:`contracts.topics`, :mod:`contracts.messages`,
:mod:`contracts.desired`, :mod:`contracts.requests`, :mod:`contracts.answers`,
:mod:`contracts.manifest`, :mod:`contracts.bundle`, :mod:`contracts.board`,
:mod:`contracts.text`, :mod:`contracts.config`, :mod:`contracts.errors`,
:mod:`contracts.limits`. Nothing here imports another package of Shoal.

Not here: what one side alone needs.
"""

__version__ = "0.1.0"
