"""Looks at every link of a fleet on its controller's machine, and says what mends each.

Not here: mending: it looks, says what would mend it, and changes nothing.
"""

from fleet.doctor.examine import examine
from fleet.doctor.finding import Finding

__all__ = ["Finding", "examine"]
