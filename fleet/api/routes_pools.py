"""``/v1/pooled``: confusion and calibration of groups, for whoever may know of no device."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query

from fleet import pools
from fleet.accuracy import wilson
from fleet.api import models, models_field
from fleet.api.auth import Pooled, TheController
from fleet.pooled import Group
from fleet.rollout.spec import NAME_PATTERN, VERSION_PATTERN

ROUTER = APIRouter(prefix="/v1", tags=["feedback"])


@ROUTER.get("/pooled/{name}/{version}")
def get_pooled(
    controller: TheController,
    _token: Pooled,
    name: Annotated[str, Path(pattern=NAME_PATTERN)],
    version: Annotated[str, Path(pattern=VERSION_PATTERN)],
    week: Annotated[
        str | None, Query(max_length=20, description="as 2026-W48; else the newest that is over")
    ] = None,
) -> models_field.PoolModel:
    """Pooled figures of one version in one whole week; the same however often it is asked."""
    found = pools.pool(controller, name, version, week)
    rules = found.release.rules
    return models_field.PoolModel(
        slot=found.slot,
        bundle=models.Ref(
            name=found.ref.name,
            version=found.ref.version,
            manifest_sha256=found.ref.manifest_sha256,
        ),
        week=found.week,
        by=rules.by,
        least=rules.least,
        cap=rules.cap,
        epsilon=rules.epsilon,
        groups=[_group(one) for one in found.release.groups],
    )


def _group(one: Group) -> models_field.PooledGroup:
    judged = one.right + one.wrong
    low, high = wilson(one.right, judged)
    return models_field.PooledGroup(
        name=one.name,
        devices=one.devices,
        right=one.right,
        wrong=one.wrong,
        accuracy=one.right / judged if judged else None,
        low=low,
        high=high,
        confusion=[models_field.PairModel(**msgspec.structs.asdict(pair)) for pair in one.pairs],
        calibration=[models_field.TenthModel(**msgspec.structs.asdict(t)) for t in one.tenths],
    )
