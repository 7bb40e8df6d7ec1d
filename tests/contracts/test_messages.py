"""Messages survive a round trip, and hostile bytes give our error alone."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import answers, blocks, codec, desired, messages, requests
from contracts.errors import ErrorInfo, InputError, ShoalError, UnavailableError
from contracts.histogram import Histogram

STRUCTS = [
    kind
    for module in (messages, desired, requests, answers)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]
REF = messages.BundleRef("home", "1.0.0", "a" * 64)


def _examples() -> list[msgspec.Struct]:
    hist = Histogram("log8")
    hist.add(120.0)
    reason = ErrorInfo("golden-mismatch", "x")
    event = messages.UpdateEvent("b", 1, 2, "classify", REF, "refused", 1.5, reason=reason)
    slots = {"classify": messages.SlotReport(REF)}
    return [
        messages.Status("online", "boot", 3, 1.0),
        event,
        messages.Reported("d", "b", "0.1.0", "pi", "litert", 1.0, slots=slots, last_update=event),
        desired.Desired(4, {"classify": desired.DesiredBundle(REF)}),
        messages.Telemetry("b", 1, [messages.Sample(1.0, 10.0, latency_us=hist)]),
        messages.Result("door", 1.0, "on", 0.5, REF),
        requests.ClassifyRequest(text="hello"),
        requests.GenerateRequest(prompt="hello"),
        requests.CancelRequest(cancel="x"),
        answers.Answer(id="x", device="d", error=ErrorInfo("busy", "try later")),
        requests.BlobGet("x", "metadata/timestamp.json", 0, 100),
    ]


@pytest.mark.parametrize("message", _examples(), ids=lambda m: type(m).__name__)
def test_a_message_is_the_same_after_a_round_trip(message: msgspec.Struct) -> None:
    """Encode then decode gives an equal value."""
    assert codec.decode(codec.encode(message), type(message), what="it") == message


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda k: k.__name__)
@given(payload=st.one_of(st.binary(), st.text().map(str.encode)))
def test_hostile_bytes_give_an_input_error(kind: type[msgspec.Struct], payload: bytes) -> None:
    """No payload raises anything but InputError."""
    try:
        codec.decode(payload, kind, what="it")
    except InputError as error:
        assert error.code == "bad-message"


def test_a_payload_over_the_cap_is_refused_before_it_is_parsed() -> None:
    """The cap counts bytes, and the error names both figures."""
    with pytest.raises(InputError, match="11 bytes; at most 10"):
        codec.decode(b'{"a": "bcd"', desired.Desired, what="it", cap=10)


def test_deep_nesting_is_an_input_error() -> None:
    """A bomb of brackets ends in our error, not in a crash."""
    bomb = b'{"revision":1,"settings":{"a":' + b"[" * 100_000
    with pytest.raises(InputError):
        codec.decode(bomb, desired.Desired, what="it")


def test_a_text_over_the_limit_is_refused() -> None:
    """A text of more characters than the cap has bytes cannot be asked."""
    with pytest.raises(InputError):
        codec.decode(codec.encode({"text": "x" * 20_000}), requests.ClassifyRequest, what="it")


@given(st.integers(0, 2**47), st.binary(max_size=100))
def test_a_block_is_the_same_after_a_round_trip(offset: int, data: bytes) -> None:
    """Pack then unpack gives the block."""
    block = blocks.Block(offset, offset + len(data), data)
    assert blocks.unpack("id", blocks.pack("id", block)) == block


@given(st.binary(max_size=200))
def test_hostile_blocks_give_our_error(payload: bytes) -> None:
    """No payload raises anything but a ShoalError."""
    try:
        blocks.unpack("id", payload)
    except ShoalError as error:
        assert error.code == "bad-block"


def test_a_block_of_another_request_is_refused() -> None:
    """A late block on a reused topic is not taken for ours."""
    with pytest.raises(InputError, match="another request"):
        blocks.unpack("other", blocks.pack("id", blocks.Block(0, 1, b"x")))


def test_an_error_crosses_the_block_topic() -> None:
    """The device sees the controller's error."""
    payload = blocks.pack_error("id", UnavailableError("busy", "later"))
    with pytest.raises(ShoalError, match="later"):
        blocks.unpack("id", payload)


@given(st.lists(st.floats(0, 1e12)), st.lists(st.floats(0, 1e12)))
def test_merging_histograms_equals_adding_all_values(left: list[float], right: list[float]) -> None:
    """Counts merge exactly."""
    one, two, both = Histogram("log8"), Histogram("log8"), Histogram("log8")
    for value in left:
        one.add(value)
        both.add(value)
    for value in right:
        two.add(value)
        both.add(value)
    one.merge(two)
    assert one.counts == both.counts


@given(st.lists(st.floats(1, 1e9), min_size=1), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_a_quantile_is_off_by_at_most_nine_percent(values: list[float], q: float) -> None:
    """The answer is the upper edge of the bucket of the exact value."""
    hist = Histogram("log8")
    for value in values:
        hist.add(value)
    found = hist.quantile(q)
    assert found is not None
    below = sum(value <= found for value in values)
    assert below >= q * len(values)
    assert any(found / 1.0911 <= value <= found * 1.0001 for value in values)
