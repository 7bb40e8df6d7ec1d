"""The inference worker: one thread, one bounded queue by priority."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from agent.serving.reply import Reply
from agent.system.log import logger
from contracts.errors import ShoalError, UnavailableError

log = logger(__name__)

STALL_S: Final = 60.0
"""Seconds without a sign of life of the running job after which it is taken for hung."""


class Job(msgspec.Struct):
    """Work for the worker.

    Attributes:
        run: does it.
        reply: where its failure goes, its deadline and cancel token.
        priority: 0 to 9; 9 runs first, equals in the order of arrival.
        slot: whose errors and refusals it counts to.
    """

    run: Callable[[], None]
    reply: Reply
    priority: int = 5
    slot: str = ""


class Worker:
    """Runs jobs in turn on its own thread.

    Args:
        capacity: jobs that may wait; one more is refused as ``busy``.
        on_failure: told the slot and the error of every job that failed, for the counters.
    """

    def __init__(
        self, capacity: int, on_failure: Callable[[str, ShoalError], None] | None = None
    ) -> None:
        self._capacity = capacity
        self._on_failure = on_failure
        self._heap: list[tuple[int, int, Job, bool]] = []  # the last: put by one who may wait
        self._patient = 0
        self._order = 0
        self._condition = threading.Condition()
        self._running: Job | None = None
        self._draining = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Jobs that wait."""
        return len(self._heap)

    @property
    def running(self) -> Job | None:
        """The job that runs."""
        return self._running

    def silent_s(self) -> float:
        """Seconds since the running job's last sign of life; 0 when none runs."""
        job = self._running
        return 0.0 if job is None else job.reply.silent_s()

    def submit(self, job: Job, *, wait: threading.Event | None = None) -> None:
        """Queues a job.

        Those who may wait fill half of the queue: however fast their jobs come, others find room.

        Args:
            job: what to run.
            wait: wait for room until this event is set, instead of refusing.

        Raises:
            UnavailableError: ``busy``, or ``shutting-down``.
        """
        patient = wait is not None
        with self._condition:
            while wait is not None and not (
                self._has_room(patient) or self._draining or wait.is_set()
            ):
                self._condition.wait(0.2)
            if self._draining:
                raise UnavailableError("shutting-down", "the agent is stopping: ask again later")
            if not self._has_room(patient):
                raise UnavailableError(
                    "busy", f"{len(self._heap)} requests wait already: ask again later"
                )
            self._order += 1
            self._patient += patient
            heapq.heappush(self._heap, (-job.priority, self._order, job, patient))
            self._condition.notify_all()

    def _has_room(self, patient: bool) -> bool:
        """Whether a job may be queued; with the condition held."""
        if len(self._heap) >= self._capacity:
            return False
        if not patient or self._patient < self._capacity // 2:
            return True
        return not self._heap and self._running is None  # a queue of one has no half

    def cancel(self, request_id: str) -> bool:
        """Cancels a waiting or running job by the id of its request; False: there is none."""
        with self._condition:
            jobs = [row[2] for row in self._heap]
            if self._running is not None:
                jobs.append(self._running)
            found = [job for job in jobs if job.reply.id == request_id]
        for job in found:
            job.reply.cancelled.set()
        return bool(found)

    def drain(self, seconds: float) -> bool:
        """Refuses new jobs and waits for the waiting ones; True when all were done in time."""
        with self._condition:
            self._draining = True
            done = self._condition.wait_for(
                lambda: not self._heap and self._running is None, seconds
            )
            rest = [row[2] for row in self._heap]
            self._heap.clear()
            self._patient = 0
            self._stopped = True
            if self._running is not None:
                self._running.reply.cancelled.set()
            self._condition.notify_all()
        for job in rest:
            job.reply.fail(UnavailableError("shutting-down", "the agent is stopping"))
        if self._thread is not None:
            self._thread.join(2)
        return done

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._heap or self._stopped)
                if not self._heap:
                    return
            self.turn()

    def turn(self) -> bool:
        """Runs the next job; False when none waits."""
        with self._condition:
            if not self._heap:
                return False
            _, _, job, patient = heapq.heappop(self._heap)
            self._patient -= patient
            job.reply.alive()  # how long it waited does not count
            self._running = job
            self._condition.notify_all()
        try:
            self._run(job)
        finally:
            with self._condition:
                self._running = None
                self._condition.notify_all()
        return True

    def _run(self, job: Job) -> None:
        try:
            job.reply.check()
            job.run()
        except ShoalError as error:
            self._failed(job, error)
        except BaseException as error:  # one request must not end the worker; Rust's panics too
            log.exception("request failed", request=job.reply.id)
            self._failed(
                job, UnavailableError("internal", f"the request failed: {type(error).__name__}")
            )

    def _failed(self, job: Job, error: ShoalError) -> None:
        if self._on_failure is not None:
            self._on_failure(job.slot, error)
        try:
            job.reply.fail(error)
        except ShoalError:
            log.warning("answer not sent", request=job.reply.id)
