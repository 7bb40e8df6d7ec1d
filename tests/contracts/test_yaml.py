"""YAML files of users: whatever is in them, one clear error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import codec
from contracts.config import AgentConfig
from contracts.errors import InputError


@pytest.mark.parametrize(
    "text",
    [
        b"fleet: 2020-13-45",
        b"fleet: 2020-12-01T99:99:99",
        b"fleet: " + b"9" * 5000,
        b"fleet: !!timestamp x",
        b"fleet: !!int x",
        b"fleet: !!float ''",
        b"fleet: !!bool x",
        b"!!int ''",
        b"a: &a [*a]",
        b"&a {fleet: *a}",
        b"? {a: b}\n: c",
        b"!!python/object/apply:os.system [x]",
        b"[" * 5000,
        b"\x00",
        b"\xff\xfe",
        b"fleet: '\\ud800'",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_a_scalar_that_is_none_gives_an_input_error(text: bytes) -> None:
    """Impossible dates, numbers of 5,000 digits, references to oneself, tags, noise."""
    with pytest.raises(InputError) as caught:
        codec.convert_yaml(text, AgentConfig, what="agent.yaml")
    assert caught.value.code == "bad-message"


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")),
    )
)
def test_any_bytes_give_an_input_error(text: bytes) -> None:
    """Or a value, for the lucky ones."""
    try:
        codec.convert_yaml(text, dict, what="it")
    except InputError as error:
        assert error.code == "bad-message"
