"""The agent's program, in which one place fails when it is told to, with all that it was given.

``python FILE CONTROL run --config agent.yaml``: the file CONTROL says which place fails, as in
:mod:`tests.support.breaking`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.support.breaking import break_places

PLACES: Final = (
    "agent.sources.lines:Lines.add",
    "agent.sources.feed:Feed.line",
    "agent.sources.feed:Feed._classify",
    "agent.serving.worker:Worker.submit",
    "agent.serving.worker:Worker.turn",
    "agent.serving.dispatch:Dispatcher.handle",
    "agent.serving.handlers:Answering.classify",
    "agent.serving.handlers:Answering.label",
    "agent.serving.handlers:Answering.shadow",
    "agent.serving.handlers:Answering._hidden",
    "agent.serving.reply:Reply.finish",
    "agent.serving.answers:Answers.judge",
    "agent.serving.answers:Answers.classified",
    "agent.serving.answers:Answers._keep",
    "agent.serving.answers:_bytes",
    "agent.serving.examples:Examples.consider",
    "agent.serving.examples:Examples.corrected",
    "agent.sharing.redaction:redact",
    "agent.sharing.redaction:_built_in",
    "agent.sharing.ledger:Ledger.leaves",
    "agent.serving.answers:Answers.generated",
    "agent.serving.answers:_digest",
    "agent.runtime.classifier:Classifier.classify",
    "agent.runtime.classifier:Classifier.run",
    "agent.runtime.front_end:HashedNgrams.encode",
    "agent.generate.handler:Generating.generate",
    "agent.generate.handler:ChunkSender.push",
    "agent.generate.model:GenerativeModel.generate",
    "agent.generate.model:GenerativeModel._prompt_ids",
    "agent.generate.model:GenerativeModel.answer",
    "agent.generate.model:GenerativeModel._run",
    "agent.generate.totals:Totals.result",
    "agent.generate.prompts:check_text",
    "agent.generate.prompts:Prompts.encode",
    "agent.generate.prompts:Prompts.encode_chat",
    "agent.generate.prompts:Prompts._ids",
    "agent.generate.constraint:ConstraintFactory.json_schema",
    "agent.generate.constraint:ConstraintFactory.regex",
    "agent.generate.constraint:ConstraintFactory._of_schema",
    "agent.generate.constraint:ConstraintFactory._start",
    "agent.generate.constraint:check_schema",
    "agent.generate.prefix_cache:PrefixCache.keep",
    "agent.generate.model:TextStream",
    "agent.generate.prompts:Prompts.decode",
    "agent.generate.prompts:Prompts.tokenizer_json",
    "agent.generate.decoder:Decoder.prefill",
    "agent.generate.decoder:Decoder.forget",
    "agent.generate.sampling:Sampler.pick",
    "agent.generate.constraint:Constraint.allowed",
    "agent.generate.constraint:Constraint.accept",
    "agent.generate.text_stream:TextStream.push",
    "agent.generate.text_stream:TextStream.finish",
    "agent.generate.prefix_cache:PrefixCache.prepare",
    "agent.serving.reply:Reply.chunk",
    "contracts.chat.template:ChatTemplate.render",
    "contracts.chat.template:ChatTemplate._render",
    "agent.telemetry.spool:Spool.put",
    "contracts.codec:decode",
    "contracts.codec:encode",
)
"""``module:name`` of what takes a text, or makes one of bytes, while an agent runs."""


def main() -> int:
    """The program."""
    control = Path(sys.argv[1])
    break_places(PLACES, control)
    from agent.__main__ import main as agent

    sys.argv = ["agent", *sys.argv[2:]]
    return agent()


if __name__ == "__main__":
    sys.exit(main())
