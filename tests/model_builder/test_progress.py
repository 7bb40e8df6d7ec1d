"""Progress without a terminal."""

from __future__ import annotations

import threading

from model_builder.progress import Lines, lines


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Sink:
    """A stream that tells when a line came."""

    def __init__(self) -> None:
        self.text = ""
        self.came = threading.Event()

    def write(self, text: str) -> int:
        self.text += text
        self.came.set()
        return len(text)

    def flush(self) -> None:
        pass


def test_a_line_says_how_long_the_work_will_take() -> None:
    """A quarter done in 20 seconds leaves a minute."""
    clock = _Clock()
    state = Lines(clock)
    state.report("learns", 0, 400)
    clock.now = 20.0
    state.report("learns", 100, 400)
    assert state.line() == "learns: 100 of 400, about 1 min 0 s left of this; 20 s passed"


def test_work_that_begins_anew_has_its_own_time() -> None:
    """The time left is worked out from what this piece of work took, not the one before."""
    clock = _Clock()
    state = Lines(clock)
    state.report("reads", 10, 10)
    clock.now = 100.0
    state.report("learns", 0, 10)
    clock.now = 102.0
    state.report("learns", 2, 10)
    assert "about 8 s left" in state.line()


def test_lines_come_without_reports() -> None:
    """A step that reports nothing still shows that the build lives."""
    sink = _Sink()
    with lines(sink, interval=0.01) as report:  # type: ignore[arg-type]
        report("converts", 0, 1)
        assert sink.came.wait(10)
    assert "passed" in sink.text
