"""Modules that are needed for seconds: imported where they are used, given back after it.

Compiled code lies on the heap. What reads manifests and model files and what checks
signatures is needed when a bundle is loaded or updated, and not while it serves.
"""

import sys


def give_back(*names):
    """Forgets modules of this package; the next collection takes what nobody else holds."""
    package = sys.modules["micro"]
    for name in names:
        sys.modules.pop("micro." + name, None)
        if hasattr(package, name):
            delattr(package, name)
