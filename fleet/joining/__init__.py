"""How a device joins by one line: what it is told, what it installs, and from where.

One module a concept: :mod:`~fleet.joining.own_wheel` (the agent as a wheel),
:mod:`~fleet.joining.wheelhouse` (all that it needs, for one platform and Python),
:mod:`~fleet.joining.releases` (kept and signed by the fleet).

Not here: who may join: one-time tokens are of :mod:`fleet.identity`.
"""
