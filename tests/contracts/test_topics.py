"""Topics: building and parsing are inverses, and nothing else is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from contracts.topics import Address, Topics, parse

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
PLAIN = st.sampled_from(
    ["status", "reported", "desired", "update", "telemetry", "result", "ack", "offered"]
)
NAMED = st.sampled_from(["request", "group-request", "response", "install"])

ADDRESSES = st.one_of(
    st.builds(Address, NAMES, PLAIN, NAMES),
    st.builds(Address, NAMES, NAMED, NAMES, NAMES),
    st.builds(Address, NAMES, st.just("blob-get"), NAMES),
    st.builds(Address, NAMES, st.just("blob"), NAMES, NAMES.filter(lambda n: n != "get")),
    st.builds(Address, NAMES, st.just("owner"), st.just("")),
)


@given(ADDRESSES)
def test_parse_is_the_inverse_of_build(address: Address) -> None:
    """Whatever can be built is parsed back to the same."""
    assert parse(Topics(address.fleet).build(address)) == address


@given(st.text())
def test_any_other_text_is_refused_with_our_error(topic: str) -> None:
    """A hostile topic gives InputError, never another exception."""
    try:
        address = parse(topic)
    except InputError:
        return
    assert Topics(address.fleet).build(address) == topic


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "-a", ".a", "a" * 65, "é", "a\n", "a\x00"])
def test_names_that_could_leave_their_level_are_refused(name: str) -> None:
    """Separators, wildcards, control characters, empty and long names."""
    with pytest.raises(InputError):
        Topics(name)
    with pytest.raises(InputError):
        Topics("f").of_device(name, "status")
    with pytest.raises(InputError):
        parse(f"shoal/v1/f/d/{name}/status")


@given(st.lists(st.text(), max_size=6))
def test_an_application_has_names_below_its_own(path: list[str]) -> None:
    """What can be built is known again; what has a wildcard, an empty level or too many is not."""
    topics = Topics("f")
    topic = "/".join(["shoal/v1/f/a/panel", *path])
    try:
        built = topics.application("panel", *path)
    except InputError:
        assert not topics.is_application(topic) or "/" in "".join(path)
        return
    assert built == topic
    assert topics.is_application(topic)
    assert not Topics("other").is_application(topic)
    with pytest.raises(InputError):
        parse(topic)  # devices and controllers read none of these


def test_the_block_id_get_is_reserved() -> None:
    """A block topic can never be mistaken for a block request."""
    with pytest.raises(InputError):
        Topics("f").blob("d", "get")
