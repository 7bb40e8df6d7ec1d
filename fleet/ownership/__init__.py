"""Which controller has the fleet: ports, lease, fence, broker, and only then the first message.

Not here: what an owner does with its fleet: it says whether this process may speak.
"""

from fleet.ownership.keeper import Keeper

__all__ = ["Keeper"]
