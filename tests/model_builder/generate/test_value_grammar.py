"""The grammar of home commands: values are whole words of the sentence."""

from __future__ import annotations

import pytest

from agent.generate.constraint import ConstraintFactory
from contracts import codec
from contracts.errors import RefusedError
from model_builder.generate.home_commands import completion, output_grammar
from model_builder.generate.pairs import Pair
from model_builder.generate.vocabulary import END, train_tokenizer

PROMPT = "turn on the lamp in the attic"


@pytest.mark.parametrize(
    ("area", "allowed"),
    [("attic", True), ("the attic", True), ("tic", False), ("att", False), ("cellar", False)],
)
def test_a_value_is_made_of_whole_words_of_the_sentence(area: str, allowed: bool) -> None:
    """A piece of a word, or a word that nobody said, cannot be written."""
    answer = completion("HassTurnOn", {"area": area})
    tokenizer = train_tokenizer([PROMPT, answer, "cellar"], 320)
    end = tokenizer.token_to_id(END)
    factory = ConstraintFactory(tokenizer.to_str(), tokenizer.get_vocab_size(), [end])
    grammar = output_grammar([Pair(PROMPT, answer, "g")])
    quoted = codec.encode(PROMPT).decode()
    constraint = factory.lark(grammar.replace("@PROMPT@", quoted))
    try:
        for token in tokenizer.encode(answer, add_special_tokens=False).ids:
            constraint.accept(token)
        written = constraint.complete
    except RefusedError:
        written = False
    assert written == allowed
