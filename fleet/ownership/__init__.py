"""Which controller has the fleet: ports, lease, fence, broker, and only then the first message."""

from fleet.ownership.keeper import Keeper

__all__ = ["Keeper"]
