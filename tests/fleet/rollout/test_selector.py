"""Selectors: what they mean, that they read back, and that nonsense is one clear error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from fleet.rollout.selector import Selector, Term, parse

_NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,10}\Z").filter(
    lambda name: name not in ("all", "in", "not")
)
_VALUES = _NAMES | st.text(st.characters(exclude_characters='"', codec="utf-8"), max_size=8)
_KEYS = _NAMES | _NAMES.map(lambda name: f"own:{name}")
_TERMS = st.builds(Term, _KEYS, st.lists(_VALUES, min_size=1, max_size=3).map(tuple), st.booleans())


@given(st.lists(_TERMS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_text_of_a_selector_reads_back_as_the_same_selector(terms: list[Term]) -> None:
    """`parse` is the inverse of `str`."""
    selector = Selector(tuple(terms))
    assert parse(str(selector)) == selector


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_selector_or_one_clear_error(text: str) -> None:
    """Never another exception."""
    try:
        parse(text)
    except InputError as error:
        assert error.code in ("bad-selector", "bad-name")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("all", {"a", "b", "c"}),
        ("a", {"a"}),
        ("a,c", {"a", "c"}),
        ("site=lyon", {"a", "b"}),
        ("site!=lyon", {"c"}),
        ("site in (lyon,graz)", {"a", "b", "c"}),
        ("site not in (lyon)", {"c"}),
        ("board=pi,site=lyon", {"a"}),
        ("floor=*", {"b"}),
        ("floor!=*", {"a", "c"}),
        ('floor="1st floor"', {"b"}),
        ("group=g", {"c"}),
        ("state=offline", {"c"}),
        ("device in (a,b),site=lyon", {"a", "b"}),
        ("nothing=here", set()),
        ("site=oslo", set()),
        ("own:site=oslo", {"c"}),
        ("own:site=*", {"c"}),
        ("own:site!=*", {"a", "b"}),
    ],
)
def test_a_selector_means_devices_by_their_labels(text: str, means: set[str]) -> None:
    """All terms must hold."""
    selector = parse(text)
    found = {
        name
        for name, facts in {
            "a": {"board": ["pi"], "site": ["lyon"], "state": ["online"]},
            "b": {"board": ["jetson"], "site": ["lyon"], "floor": ["1st floor"]},
            "c": {"board": ["pi"], "site": ["graz"], "group": ["g"], "state": ["offline"],
                  "own:site": ["oslo"]},
        }.items()
        if selector.matches(facts | {"device": [name]})
    }  # fmt: skip
    assert found == means


@pytest.mark.parametrize("text", ["own:=x", "own:a:b=x", "own:own:a=x", "site:own=x", "x:a=b"])
def test_a_key_is_a_label_or_a_label_behind_own(text: str) -> None:
    """There is one kind of word that is not the operator's."""
    with pytest.raises(InputError) as error:
        parse(text)
    assert error.value.code == "bad-name"
