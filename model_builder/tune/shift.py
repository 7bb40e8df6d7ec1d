"""Test prompts in other words, by rules: what a model meets that was trained on one way to ask.

Three rules, each for a third of the prompts; of a chat, what its user said last is changed. Words
that stand in the answer are left alone, so that the answer stays right.

- **paraphrase**: the prompt within a polite sentence ("could you ..., please").
- **other words**: each word of a short list gives way to one that means the same.
- **typo**: two neighbouring letters of the longest free word change places.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from model_builder.generate.pairs import Pair
from model_builder.tune.data import chat_of, prompt_of

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
        said = last_said(pair.prompt)
        for turn in range(3):
            rule = rules[(number + turn) % 3]
            text = _changed(said, pair.completion, rule, rng)
            if text != said:
                found.append((rule, Pair(_saying(pair.prompt, text), pair.completion, pair.group)))
                break
    return found


def last_said(prompt: str) -> str:
    """What the user of a prompt said last; empty: nobody did, the chat ends with a result."""
    chat = chat_of(prompt)
    if chat is None:
        return prompt
    return chat.messages[-1].content if chat.messages[-1].role == "user" else ""


def _saying(prompt: str, text: str) -> str:
    chat = chat_of(prompt)
    if chat is None:
        return text
    last = msgspec.structs.replace(chat.messages[-1], content=text)
    return prompt_of(msgspec.structs.replace(chat, messages=[*chat.messages[:-1], last]))


def _changed(prompt: str, completion: str, rule: str, rng: random.Random) -> str:
    if not prompt:
        return prompt
    kept = set(re.findall(r"\w+", completion.lower()))
    if rule == PARAPHRASE:
        return rng.choice(_FRAMES).format(prompt)
    words = prompt.split(" ")
    free = [i for i, word in enumerate(words) if word.lower() not in kept and word.isalpha()]
    if rule == WORDS:
        for i in free:
            words[i] = _OTHER.get(words[i].lower(), words[i])
        return " ".join(words)
    long = [i for i in free if len(words[i]) >= _TYPO_LETTERS]
    if not long:
        return prompt
    at = max(long, key=lambda i: len(words[i]))
    word = words[at]
    swaps = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if not swaps:
        return prompt
    i = rng.choice(swaps)
    words[at] = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return " ".join(words)
