"""Hard examples in the controller: stored once, in a useful order, labelled by several people."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from contracts.answers import FieldSample, HardReason
from contracts.messages import BundleRef, Lesson
from fleet.controller import Controller
from fleet.samples import order, rows
from fleet.store import samples
from fleet.store.samples import Ask, Hint, Said, Text, key_of
from tests.fleet.api.conftest import Signed

REF = BundleRef("noise", "1.0.0", "0" * 64)
ASK = Ask("ask-1", "noise", "all", 50, "", "ann", 1000.0)
REASONS: tuple[HardReason, ...] = ("low-confidence",)


def sample(
    text: str,
    confidence: float = 0.4,
    *,
    label: str = "x",
    times: int = 1,
    meant: str | None = None,
) -> FieldSample:
    """What a device gives."""
    reasons = ["corrected"] if meant else list(REASONS)
    mark = key_of(f"{text}{confidence}")
    return FieldSample(
        mark, 1.0, text, label, confidence, REF, reasons, meant=meant, times=times  # type: ignore[arg-type]
    )  # fmt: skip


def text(words: str, confidence: float = 0.4, **more: object) -> Text:
    """A text of the queue."""
    fields = {"devices": ["d1"], "times": 1, "meant": {}, "said": [], **more}
    return Text(key_of(words), sample(words, confidence), **fields)  # type: ignore[arg-type]


def give(controller: Controller, device: str, *found: FieldSample, ask: Ask = ASK) -> int:
    """A device gave samples."""
    with controller.store.write() as connection:
        return samples.add(controller.store, connection, ask, device, found, controller.clock())


def queue(client: TestClient) -> list[str]:
    """The texts that a person should label, in their order."""
    answer = client.get("/v1/samples/queue", params={"model": "noise"})
    assert answer.status_code == 200, answer.text
    return [one["text"] for one in answer.json()["items"]]


def say(client: TestClient, words: str, label: str | None) -> int:
    """Labels a text."""
    body = {"model": "noise", "key": key_of(words), "label": label}
    return client.post("/v1/samples/labels", json=body).status_code


def test_examples_of_a_lesson_are_labelled_texts_until_it_is_taken_back(
    controller: Controller, signed: Signed
) -> None:
    """The next version learns them; of a text that a device gave too its own sample stays."""
    give(controller, "d1", sample("put on a song"))
    lesson = Lesson("music", "music", 2, 1.0, REF, by="ann")
    words = ["put on a song", "play some jazz", "x" * 3000]
    for _ in range(2):  # the same again changes nothing
        with controller.store.write() as connection:
            samples.learn(controller.store, connection, lesson, words, "ann", 2.0)
    with controller.store.read() as connection:
        found = rows.rows(samples.texts(connection, "noise"))
    assert {(one.text, one.label, one.lesson) for one in found} == {
        ("put on a song", "music", "music"), ("play some jazz", "music", "music"),
    }  # fmt: skip
    assert queue(signed("operator")) == [], "nobody need say it again"
    with controller.store.write() as connection:
        assert samples.unlearn(connection, "music", "ann") == 2
    with controller.store.read() as connection:
        (left,) = samples.texts(connection, "noise")
    assert (left.sample.text, left.devices, left.said, left.lesson) == (
        "put on a song", ["d1"], [], "",
    )  # fmt: skip


def test_a_sample_is_stored_once_and_never_more_than_were_asked_for(
    controller: Controller, signed: Signed
) -> None:
    """Sent again after a lost answer, by a device that sends too many, or of another model."""
    one, two = sample("turn it on"), sample("turn it off")
    assert give(controller, "d1", one, two) == 2
    assert give(controller, "d1", one, two) == 0
    assert give(controller, "d2", one) == 1, "another device heard it too"
    few = Ask("ask-2", "noise", "all", 1, "", "ann", 1000.0)
    assert give(controller, "d3", sample("a"), sample("b"), ask=few) == 1
    other = Ask("ask-3", "others", "all", 9, "", "ann", 1000.0)
    assert give(controller, "d3", sample("c"), ask=other) == 0
    found = signed("operator").get("/v1/samples", params={"model": "noise"}).json()["items"]
    assert {(item["text"], item["devices"]) for item in found} == {
        ("turn it on", 2), ("turn it off", 1), ("a", 1),
    }  # fmt: skip


def test_what_two_people_say_differently_stays_and_comes_to_a_third(
    controller: Controller, signed: Signed
) -> None:
    """Agreement ends a text for all; a dispute is shown, and a majority decides."""
    give(controller, "d1", sample("turn it on"), sample("what is up"))
    with controller.store.write() as connection:
        from fleet.store import tokens

        secrets = [tokens.create(connection, name, "operator", 1.0) for name in ("bo", "cy")]
    ann = signed("operator")
    bo, cy = signed("nobody"), signed("nobody")
    for client, secret in zip((bo, cy), secrets, strict=True):
        client.headers["Authorization"] = f"Bearer {secret}"
    assert say(ann, "turn it on", "on") == 204
    assert queue(ann) == ["what is up"] == queue(bo), "one word is enough, until somebody disputes"
    assert say(bo, "turn it on", " off ") == 204
    assert queue(cy)[0] == "turn it on"
    (disputed,) = [
        one for one in ann.get("/v1/samples", params={"model": "noise"}).json()["items"]
        if one["disputed"]
    ]  # fmt: skip
    assert disputed["label"] is None
    assert {one["person"]: one["label"] for one in disputed["said"]} == {
        "the operator": "on", "bo": "off",
    }  # fmt: skip
    assert say(cy, "turn it on", "off") == 204
    with controller.store.read() as connection:
        found = {one.sample.text: one for one in samples.texts(connection, "noise")}
    assert found["turn it on"].label == "off" and found["turn it on"].disputed
    assert [row.label for row in rows.rows(found.values())] == ["off"]


def test_a_label_can_be_taken_back_and_a_text_passed_over(
    controller: Controller, signed: Signed
) -> None:
    """What was passed over comes to others; what is no label is refused."""
    give(controller, "d1", sample("turn it on"))
    client = signed("operator")
    assert say(client, "turn it on", None) == 204
    assert queue(client) == []
    where = {"model": "noise", "key": key_of("turn it on")}
    assert client.delete("/v1/samples/labels", params=where).status_code == 204
    assert client.delete("/v1/samples/labels", params=where).status_code == 404
    assert queue(client) == ["turn it on"]
    assert say(client, "nobody said this", "on") == 404
    for wrong in ("", "  ", "a\x07b", "x" * 300):
        assert say(client, "turn it on", wrong) in (400, 422), wrong
    assert queue(client) == ["turn it on"]


def test_texts_need_an_operator_and_deletion_an_admin(
    controller: Controller, signed: Signed
) -> None:
    """A viewer reads figures, and no text; labels go with the last sample of a text."""
    give(controller, "d1", sample("turn it on"))
    give(controller, "d2", sample("turn it on"), sample("more"))
    viewer, operator, admin = signed("viewer"), signed("operator"), signed("admin")
    for path in ("", "/queue", "/asks"):
        assert viewer.get(f"/v1/samples{path}", params={"model": "noise"}).status_code == 403
    assert say(operator, "turn it on", "on") == 204
    every = {"model": "noise"}
    assert operator.delete("/v1/samples", params=every).status_code == 403
    assert admin.delete("/v1/samples", params={**every, "device": "d1"}).json() == {"samples": 1}
    with controller.store.read() as connection:
        (kept,) = [o for o in samples.texts(connection, "noise") if o.sample.text == "turn it on"]
    assert kept.label == "on"
    assert admin.delete("/v1/samples", params=every).json() == {"samples": 2}
    give(controller, "d1", sample("turn it on"))
    with controller.store.read() as connection:
        (again,) = samples.texts(connection, "noise")
    assert again.said == []
    noted = admin.get("/v1/audit").json()["items"]
    assert not any("turn it on" in json.dumps(one) for one in noted)


def test_samples_end_with_their_time(controller: Controller) -> None:
    """By the fleet's retention, with their labels."""
    give(controller, "d1", sample("turn it on"))
    with controller.store.write() as connection:
        samples.say(controller.store, connection, "noise", key_of("turn it on"), "ann", "on", 1.0)
        assert samples.delete(connection, before=controller.clock() - 60) == 0
        assert samples.delete(connection, before=controller.clock() + 60) == 1
        assert samples.texts(connection, "noise") == []


def test_the_most_useful_text_comes_first() -> None:
    """Unsure x unlike the others x often; what is labelled makes its likes less useful."""
    sure, unsure = text("play the radio", 0.59), text("boil two eggs", 0.2)
    assert order.queue([sure, unsure], "ann", 9) == [unsure, sure]
    often = text("play the radio", 0.59, times=60)
    assert order.queue([often, unsure], "ann", 9)[0] == often
    # One correction of an answer that the model was sure of is likely false; two are not.
    half, sure = text("is it wet outside", 0.5, corrected=1), text("play it", 0.97, corrected=1)
    assert order.queue([unsure, half, sure], "ann", 3) == [half, unsure, sure]
    twice = text("is it wet outside", 0.93, corrected=2)
    assert order.queue([unsure, twice], "ann", 1) == [twice]
    same = [text(f"turn on the light in the {room}", 0.3) for room in ("kitchen", "cellar", "hall")]
    odd = text("defrost the freezer", 0.4)
    assert odd in order.queue([*same, odd], "ann", 2)
    known = text("turn on the light in the attic", 0.3, said=[Said("bo", "on", 1.0)])
    assert order.queue([*same, odd, known], "ann", 1) == [odd]
    assert order.queue([known], "ann", 1) == [], "somebody has labelled it"
    # What the newest version has learnt since need not be said; what many say is worth more.
    learnt = text("turn it on", 0.1, hints=[Hint("version 2.0.0", "x", 0.99)])
    doubted = text(
        "is it on", 0.9, hints=[Hint("version 2.0.0", "x", 0.3), Hint("teacher t", "x", 1)]
    )
    assert order.queue([learnt, doubted], "ann", 1) == [doubted]
    lights = [text(f"illuminate the {room}", 0.3) for room in ("hall", "attic", "porch")]
    assert order.queue([text("qwertz uiop", 0.28), *lights], "ann", 1)[0] in lights


def test_rows_are_kept_out_by_a_hash_and_disputes_are_left_out() -> None:
    """A text never changes sides, whatever comes beside it; about one in four is kept out."""
    agreed = [text(f"text {number}", said=[Said("ann", "a", 1.0)]) for number in range(400)]
    torn = text("torn", said=[Said("ann", "a", 1.0), Said("bo", "b", 2.0)])
    found = rows.rows([*agreed, torn, text("not yet")])
    assert len(found) == 400
    kept = {row.text for row in found if row.part == "judge"}
    assert 70 < len(kept) < 130
    assert kept >= {row.text for row in rows.rows(agreed[:50]) if row.part == "judge"}
    assert [json.loads(line)["text"] for line in rows.to_jsonl(found[:2]).splitlines()]
    formula = text("=1+1", said=[Said("ann", "a", 1.0)])
    assert "'=1+1" in rows.to_csv(rows.rows([formula])).decode()


@pytest.mark.parametrize("spelling", ["Turn it on!", "turn  it on", "TURN IT ON"])
def test_the_same_text_in_another_spelling_is_one_text(spelling: str) -> None:
    """As a model sees it."""
    assert key_of(spelling) == key_of("turn it on")
