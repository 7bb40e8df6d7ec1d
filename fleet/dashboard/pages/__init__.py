"""The pages, one module each.

Not here: reads of the store and rules: a page shows what it is given.
"""

from typing import Final

from fleet.dashboard.pages import (
    access,
    alerts,
    audit,
    compare,
    device,
    devices,
    enrol,
    improve,
    label,
    models,
    overview,
    rollout,
    rollouts,
    wizard,
)
from fleet.dashboard.site import Site

FAVICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48" fill="#0b6e7f">'
    '<path d="M4 16c6-7 16-7 22 0l6-5v10l-6-5c-6 7-16 7-22 0z"/>'
    '<path d="M18 33c6-7 14-7 20 0l6-5v10l-6-5c-6 7-14 7-20 0z" opacity=".55"/></svg>'
)


def register(site: Site) -> None:
    """Adds all pages to NiceGUI's app."""
    for module in (
        overview,
        devices,
        device,
        enrol,
        improve,
        label,
        models,
        compare,
        rollouts,
        wizard,
        rollout,
        alerts,
        access,
        audit,
    ):
        module.register(site)
