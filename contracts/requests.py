"""What a device may be asked: the message of every topic ``req/{op}`` of protocol v1.

Their answers are in :mod:`contracts.answers`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from contracts import limits
from contracts.messages import Count, Label, Name, Text, Whole

Deadline = Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_DEADLINE_MS)]


class Request(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields of every request.

    The id, the reply topic and the deadline may also come as MQTT 5 properties (correlation
    data, response topic, message expiry); a field wins over a property. The same request sent
    again while it waits or runs is answered once; another request under its id is refused as
    ``id-in-use``.
    """

    id: Name | None = None
    reply_to: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    deadline_ms: Deadline | None = None
    requester: Annotated[str, msgspec.Meta(max_length=64)] = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5


class ClassifyRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/classify``."""

    text: Text
    slot: Name = "classify"
    top_k: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3


class EmbedRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/embed``: the text as a vector, by a bundle whose model is a sentence encoder."""

    text: Text
    slot: Name = "classify"


ToolName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model may call: `parameters` is the JSON schema of an object; empty: it takes none."""

    name: ToolName
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    parameters: dict[str, Any] = {}


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a model asks for: `arguments` is the text of a JSON object."""

    id: Annotated[str, msgspec.Meta(max_length=64)]
    name: ToolName
    arguments: Text


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat.

    `tool_calls`: of an assistant's turn. `tool_call_id`: of the call that a turn of the role
    ``tool`` has the result of.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: Text
    tool_calls: Annotated[list[ToolCall], msgspec.Meta(max_length=16)] = []
    tool_call_id: Annotated[str, msgspec.Meta(max_length=64)] = ""


MAX_LOGIT_BIASES: Final = 300
"""Tokens with a bias in one request."""


MAX_TEMPLATE_ARGUMENTS: Final = 32
"""Variables for a chat template in one request."""


class GenerateRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/generate``: either `prompt` (as it is) or `messages` (through the chat template).

    `tools` go with `messages`. With `tool_choice` ``required`` the answer is a call; with
    ``none`` the model does not see them. An answer with a form (`json_schema`, `regex`) is in that
    form, or a call. With `min_confidence` an answer comes in one piece, calls too, and only if the
    model was that sure of it (:attr:`Generated.confidence`); 0 asks for the figure alone.

    `when_full`: what becomes of messages that the model's largest context does not hold: they are
    refused (``prompt-too-long``), or the oldest turns are forgotten (:attr:`Generated.forgotten`),
    never a system message before them, nor the last turn of the user.

    `chat_template_kwargs`: variables of the chat template, such as ``enable_thinking``; one that
    the template does not read is refused.

    `adapter`: the slot or the name of an adapter of the slot's bundle, which answers in its place.
    """

    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=256)] | None = None
    slot: Name = "generate"
    adapter: Name | None = None
    session: Name | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_GENERATE_TOKENS)] = 256
    max_time_ms: Deadline | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,7}$")],
            Annotated[float, msgspec.Meta(ge=-100, le=100)],
        ],
        msgspec.Meta(max_length=MAX_LOGIT_BIASES),
    ] = {}
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=256)]],
        msgspec.Meta(max_length=16),
    ] = []
    json_schema: dict[str, Any] | None = None
    regex: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    min_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stream: bool = True
    when_full: Literal["refuse", "forget"] = "refuse"
    tools: Annotated[list[Tool], msgspec.Meta(max_length=64)] = []
    tool_choice: Literal["auto", "none", "required"] = "auto"
    parallel_tool_calls: bool = True
    chat_template_kwargs: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], Any],
        msgspec.Meta(max_length=MAX_TEMPLATE_ARGUMENTS),
    ] = {}


class CancelRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/cancel``: stop the request with id `cancel`.

    The id is all it takes: whoever may write to a device's ``req`` may cancel what it does.
    """

    cancel: Name


class SelftestRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/selftest``: replay the golden vectors of the active bundle of `slot`."""

    slot: Name = "classify"


class FeedbackRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/feedback``: what somebody says of an answer of this device. Only counts are kept.

    Exactly one of `right`, `label`, `labels` and `text`. An answer is judged once: the same said
    again changes nothing, another verdict is refused as ``already-judged``.

    Attributes:
        answer: the id of the request that was answered; of a result of a local source its
            `boot`, a dot, and its `seq`.
        right: whether the answer is right.
        label: the right label; the answer may have it.
        labels: the right labels, all of them, of an answer that may have several; none: it has
            none.
        text: the right completion, of a generator; it is compared, and forgotten.
        sampled: the answer was picked to be judged before anybody looked whether it is right.
    """

    answer: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    right: bool | None = None
    label: Label | None = None
    text: Text | None = None
    sampled: bool = False
    labels: Annotated[list[Label], msgspec.Meta(max_length=limits.MAX_SAID)] | None = None


SampleId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class SamplesRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/samples``: hard examples of one model, where their owner consents. Never queued.

    A device answers with at most `MAX_SAMPLES_BYTES` of text; the same request again, with `kept`,
    brings the next ones. What is not said to be kept is sent again with the next request.

    Attributes:
        ask: what is asked for: the owner approves it, once, by this name.
        model: the name of the bundle that gave the answers.
        most: how many, over all requests with this `ask`.
        kept: samples that are stored: the device sends them never again.
        why: for the owner.
    """

    ask: Name
    model: Name
    most: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_SAMPLES)] = 50
    kept: Annotated[list[SampleId], msgspec.Meta(max_length=limits.MAX_SAMPLES)] = []
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


class TeachRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/teach``: a label from a few examples, until the next version of the model.

    Of the examples the device keeps features alone, for the model that serves now.

    Attributes:
        action: ``add`` a lesson, ``undo`` it, or ``list`` what there is.
        lesson: its name; the same lesson again changes nothing, another of its name is refused.
        label: of all `texts`; one of the model's, or a new one.
        model: name of the bundle that is meant; where another one serves it is refused.
    """

    slot: Name = "classify"
    action: Literal["add", "undo", "list"] = "add"
    lesson: Name | None = None
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_LABEL_CHARS)] | None = (
        None
    )
    texts: Annotated[list[Text], msgspec.Meta(max_length=limits.MAX_LESSON_TEXTS)] = []
    model: Name | None = None


LogLevel = Literal["info", "warning", "error"]
"""The least first."""


class LogsRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/logs``: lines of the agent's log, redacted on the device. Never queued.

    A device that keeps no log says ``not-supported``; one whose owner shares none
    (``share_logs: false`` in its configuration) says ``logs-not-shared``. It answers at most two
    a second.

    Attributes:
        after: the lines that follow this one, the first of them; None: the newest.
        boot: of `after`; of another boot than the present one, all lines that are kept follow.
        most: how many.
        level: the least.
    """

    after: Whole | None = None
    boot: Name | None = None
    most: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_LOG_LINES)] = 100
    level: LogLevel = "info"


class StatusRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/status``: answer with the reported document."""


class BlobGet(msgspec.Struct, frozen=True):
    """``blob/get``: a range of a file of the repository, by its path there."""

    id: Name
    path: Annotated[str, msgspec.Meta(max_length=300)]
    offset: Count
    length: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_BLOCK_BYTES)]
