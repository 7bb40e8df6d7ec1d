"""What the next version is made from, how far it is, and the rollouts that bring it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fleet.rollout.spec import RolloutSpec

Step = Literal["begun", "built", "judged", "published", "rolling", "done", "stopped"]


class Wish(msgspec.Struct, frozen=True):
    """What the next version is made from, and how it is rolled out.

    Attributes:
        recipe: of the version before; it is built again, with the rows of the field.
        changes: of the recipe, ``key=value``.
        selector: which devices get it.
        max_loss: that it may lose on the old test split.
        shadow_s: how long it answers in the shadow first; 0: not at all.
        rollout: fields of the rollout, beside bundle, version, selector.
    """

    recipe: str
    changes: list[str] = []
    selector: str = "all"
    max_loss: float = 0.02
    shadow_s: float = 600.0
    rollout: dict[str, Any] = {}


class State(msgspec.Struct):
    """How far it is."""

    name: str
    version: str
    against: str
    wish: Wish
    step: Step = "begun"
    rows: dict[str, int] = {}
    bundle: str = ""
    stops: list[str] = []
    rollouts: dict[str, str] = {}


def shadow_spec(state: State) -> RolloutSpec:
    """It answers beside the version that runs, and nobody sees it."""
    fields: dict[str, Any] = {
        key: value
        for key, value in state.wish.rollout.items()
        if key in ("deadline_s", "offline_s", "patience_s", "windows", "trial")
    }
    return RolloutSpec.model_validate(
        {
            "bundle": state.name,
            "version": state.version,
            "selector": state.wish.selector,
            "mode": "shadow",
            "waves": [{"percent": 100}],
            "bake_s": state.wish.shadow_s,
            "allow_empty": True,
            **fields,
        }
    )


def active_spec(state: State) -> RolloutSpec:
    """One canary, a tenth, all; behind the gate of field accuracy, where there is feedback."""
    gates = {"max_field_regression": 0.05, "min_field_devices": 1, "min_field_judged": 20}
    fields: dict[str, Any] = {
        "waves": [{"count": 1}, {"percent": 10}, {"percent": 100}],
        "gates": {**gates, "no_evidence": "pass"},
        "note": f"improves {state.against}",
        "allow_empty": True,  # somebody else may have moved the devices meanwhile
        **state.wish.rollout,
    }
    return RolloutSpec.model_validate(
        {
            **fields,
            "bundle": state.name,
            "version": state.version,
            "selector": state.wish.selector,
            "mode": "active",
        }
    )
