"""Rows of other services' fine-tuning files: as chats in OpenAI's form, or refused by their name.

Vertex AI's (Gemini): https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-supervised-tuning
TRL's (prompts and completions that are turns, preferences, judged answers):
https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from typing import Any, Final

from contracts.errors import InputError

_PREFERRED: Final = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))


def as_chat(row: Any) -> dict[str, Any] | None:
    """A row that is a chat, with its turns under ``messages`` or ``conversations``.

    Returns:
        None: it is no chat.

    Raises:
        InputError: ``bad-data``; a turn that holds something else than text.
    """
    if not isinstance(row, dict):
        return None
    if "messages" in row or "conversations" in row:
        return row
    if isinstance(row.get("contents"), list):
        system = row.get("systemInstruction", row.get("system_instruction"))
        turns = [_turn(one) for one in ([system] if system else []) + row["contents"]]
        if system:
            turns[0]["role"] = "system"
        return {"messages": turns}
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        rest = {key: row[key] for key in ("tools", "label") if key in row}
        return {"messages": [*prompt, *completion], **rest}
    return None


def _turn(content: Any) -> dict[str, Any]:
    """A content of Gemini as a message; its parts are text."""
    parts = content.get("parts") if isinstance(content, dict) else None
    if isinstance(parts, dict):
        parts = [parts]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InputError("bad-data", "an entry of contents has no parts")
    texts = [part.get("text") for part in parts]
    if not all(isinstance(text, str) for text in texts):
        other = ", ".join(sorted({key for part in parts for key in part if key != "text"}))
        raise InputError("bad-data", f"a part with {other[:80]}: only texts are learnt")
    role = content.get("role", "user")
    return {"role": "assistant" if role == "model" else role, "content": "".join(texts)}


def refuse_judged(row: Any) -> None:
    """Refuses a row that says of answers which is better: what is read is learnt.

    Raises:
        InputError: ``bad-data``; what to write.
    """
    if not isinstance(row, dict):
        return
    for good, bad in _PREFERRED:
        if good in row and bad in row:
            raise InputError(
                "bad-data",
                f"a row of preferences ({good}, {bad}): only answers are learnt; write prompt and "
                f"completion, or messages, with what is under {good}",
            )
    if row.get("label") is False or str(row.get("label")).casefold() == "false":
        raise InputError("bad-data", "an answer that was judged bad (label: false); leave it out")
