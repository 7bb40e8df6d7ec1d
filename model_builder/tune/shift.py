"""Test prompts in other words, by rules: what a model meets that was trained on one way to ask.

Three rules, each for a third of the prompts. Words that stand in the answer are left alone, so
that the answer stays right.

- **paraphrase**: the prompt within a polite sentence ("could you ..., please").
- **other words**: each word of a short list gives way to one that means the same.
- **typo**: two neighbouring letters of the longest free word change places.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from model_builder.generate.pairs import Pair
from model_builder.tune.data import chat_of

PARAPHRASE, WORDS, TYPO = "paraphrase", "other words", "typo"

_FRAMES: Final = (
    "could you {} please",
    "i would like you to {}",
    "hey there, {} if you can",
    "please {} thank you",
    "would you mind, i need this: {}",
)
_OTHER: Final = {
    "turn": "flip",
    "switch": "flip",
    "set": "bring",
    "change": "bring",
    "make": "get",
    "increase": "raise",
    "decrease": "reduce",
    "stop": "halt",
    "start": "begin",
    "cancel": "drop",
    "create": "begin",
    "add": "include",
    "remove": "drop",
    "delete": "drop",
    "what": "which",
    "whats": "tell me",
    "tell": "show",
    "show": "tell",
    "give": "hand",
    "write": "compose",
    "the": "that",
    "my": "our",
    "our": "the",
    "all": "each of",
    "big": "large",
    "small": "little",
    "quick": "fast",
    "help": "assist",
    "buy": "get",
    "want": "would like",
    "need": "require",
    "how": "in what way",
    "explain": "describe",
    "is": "would you say it is",
}
_TYPO_LETTERS: Final = 4


def shifted(pairs: Sequence[Pair], seed: int) -> list[tuple[str, Pair]]:
    """Pairs with their prompts in other words, each with the rule that did it.

    A pair that no rule can change is left out.
    """
    rng = random.Random(seed)
    rules = (PARAPHRASE, WORDS, TYPO)
    found = []
    for number, pair in enumerate(pairs):
        if chat_of(pair.prompt) is not None:
            continue
        for turn in range(3):
            rule = rules[(number + turn) % 3]
            prompt = _changed(pair, rule, rng)
            if prompt != pair.prompt:
                found.append((rule, Pair(prompt, pair.completion, pair.group)))
                break
    return found


def _changed(pair: Pair, rule: str, rng: random.Random) -> str:
    kept = set(re.findall(r"\w+", pair.completion.lower()))
    if rule == PARAPHRASE:
        return rng.choice(_FRAMES).format(pair.prompt)
    words = pair.prompt.split(" ")
    free = [i for i, word in enumerate(words) if word.lower() not in kept and word.isalpha()]
    if rule == WORDS:
        for i in free:
            words[i] = _OTHER.get(words[i].lower(), words[i])
        return " ".join(words)
    long = [i for i in free if len(words[i]) >= _TYPO_LETTERS]
    if not long:
        return pair.prompt
    at = max(long, key=lambda i: len(words[i]))
    word = words[at]
    swaps = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if not swaps:
        return pair.prompt
    i = rng.choice(swaps)
    words[at] = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return " ".join(words)
