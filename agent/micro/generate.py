"""The tiny generator: one character a step, its state kept between steps."""

import asyncio
import time

from .errors import Refused
from .interpreter import Interpreter

MAX_ALPHABET = 256


class Generator:
    """A loaded generate bundle with an alphabet as its front end.

    Args:
        folder: holds the manifest and its files, checked before.
        manifest: read from it.
        memory: for the model.
    """

    def __init__(self, folder, manifest, memory):
        self.manifest = manifest
        front = manifest.front_end
        alphabet = front.get("characters")
        if front.get("kind") != "alphabet" or not isinstance(alphabet, str):
            raise Refused("bad-manifest", "a generator here needs an alphabet")
        if not 2 <= len(alphabet) <= MAX_ALPHABET:
            raise Refused("bad-manifest", "an alphabet has %d characters" % len(alphabet))
        self._alphabet = alphabet
        self._model = Interpreter(folder + "/" + manifest.model_file, memory)
        inputs, outputs = self._model.inputs, self._model.outputs
        if (
            len(inputs) != 2
            or len(inputs[0]) != 4
            or len(outputs) != 2
            or len(outputs[0]) != len(alphabet)
            or len(outputs[1]) != len(inputs[1])
        ):
            self._model.close()
            raise Refused("bad-manifest", "the model's borders are not what the manifest says")
        self.arena_bytes = self._model.arena_bytes

    def close(self):
        """Frees the model's file."""
        self._model.close()

    def _step(self, number):
        """One character in; returns the id of the likeliest next one."""
        view = self._model.inputs[0]
        view[0], view[1], view[2], view[3] = number & 255, number >> 8, 0, 0
        self._model.invoke()
        self._model.inputs[1][:] = self._model.outputs[1]
        logits = self._model.outputs[0]
        best, most = 0, -1
        for i in range(len(logits)):
            value = logits[i] ^ 128
            if value > most:
                best, most = i, value
        return best

    def _start(self, prompt):
        """Reads the prompt; returns the first id of the continuation."""
        if not prompt:
            raise Refused("bad-message", "the prompt is empty")
        state = self._model.inputs[1]
        for i in range(len(state)):
            state[i] = 0
        number = 0
        for char in prompt:
            at = self._alphabet.find(char)
            if at < 0:
                raise Refused("bad-message", "the model does not know the character %r" % char)
            number = self._step(at)
        return number

    def tokens(self, prompt, count):
        """Ids of the greedy continuation, the end mark (0) included."""
        number = self._start(prompt)
        found = [number]
        while number and len(found) < count:
            number = self._step(number)
            found.append(number)
        return found

    def replay(self, vector):
        """Steps (0 or 1) that a golden vector is off, and whether it holds."""
        expected = vector["tokens"]
        held = self.tokens(vector["text"], len(expected)) == expected
        return 0 if held else 1, held

    async def generate(self, prompt, limit, request, chunk):
        """The wire's ``generated``, without the bundle; pieces go to `chunk` as they come."""
        start = time.ticks_ms()
        number = self._start(prompt)
        first = time.ticks_diff(time.ticks_ms(), start)
        text = piece = ""
        count = 0
        reason = "length"
        while count < limit:
            if number == 0:
                reason = "stop"
                break
            if request.cancelled:
                reason = "cancelled"
                break
            if request.expired():
                reason = "time"
                break
            piece += self._alphabet[number]
            count += 1
            if len(piece) >= 8:
                await chunk(piece)
                text += piece
                piece = ""
            number = self._step(number)
            await asyncio.sleep(0)
        if piece:
            await chunk(piece)
            text += piece
        seconds = max(1, time.ticks_diff(time.ticks_ms(), start)) / 1000
        return {
            "text": text,
            "finish_reason": reason,
            "prompt_tokens": len(prompt),
            "tokens": count,
            "first_token_ms": float(first),
            "tokens_per_s": count / seconds,
        }
