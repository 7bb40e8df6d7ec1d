"""The dashboard never waits for the database on the event loop, which serves all requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from contracts.config import MqttConfig
from tests.support import event_loop
from tests.support.serving import served

DATA = Path(__file__).parents[2] / "data"
PAGES = ("/", "/devices", "/devices/d1", "/models", "/models/tiny-classifier/1.0.0",
         "/models/none/1.0.0", "/rollouts", "/rollouts/r1", "/rollouts/r9", "/alerts", "/audit",
         "/label", "/label/tiny-classifier",
         "/no-such-page")  # fmt: skip


def test_no_page_and_no_sign_in_asks_the_database_on_the_event_loop(
    mosquitto_broker: MqttConfig, tmp_path: Path, fleet_name: str
) -> None:
    """Every page, for each role; right and wrong sign-ins; a session whose token has gone."""
    bundles = [DATA / "tiny-classifier-1.0.0"]
    with served(tmp_path / "f", mosquitto_broker, name=fleet_name, bundles=bundles) as running:
        for role in ("viewer", "operator", "admin"):
            with httpx.Client(base_url=running.url, timeout=60) as browser:
                assert browser.get("/ui/devices").headers["location"].startswith("/ui/login")
                wrong = "shoal_" + "0" * 12 + "_" + "a" * 43
                bad = browser.post("/ui/login", data={"token": wrong})
                assert bad.status_code == 401
                good = browser.post("/ui/login", data={"token": running.token(role)})
                assert good.status_code == 303
                for page in PAGES:
                    found = browser.get(f"/ui{page}")
                    assert found.status_code in (200, 404), (page, found.status_code)
                assert browser.post("/ui/logout").status_code == 303
        assert event_loop.COMPLAINT not in running.log(), running.log()[-3000:]


def test_a_database_call_on_an_event_loop_is_noticed() -> None:
    """The rule itself can fail."""
    engine = sa.create_engine("sqlite://")

    async def wrong() -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(AssertionError, match=event_loop.COMPLAINT):
        asyncio.run(wrong())
    engine.dispose()
