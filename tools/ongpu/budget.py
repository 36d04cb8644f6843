"""Steps in order of worth, within a budget of time; an error in one does not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAIL_LINES = 25  # of the output of what failed: what a report shows
SECONDS_MIN = 5.0  # with less left, a step is not begun


class NotRun(Exception):
    """A step cannot run here; the message says why. No failure, and no success."""


class Failed(Exception):
    """A step found a fault, or could not go on; the message goes into the report."""


@dataclass
class Outcome:
    """How a step ended. verdict: passed, failed, not run, or skipped (for want of time)."""

    name: str
    verdict: str
    seconds: float = 0.0
    detail: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)


class Job:
    """A step being run: its deadline, its log, its rows, which stay whatever becomes of it."""

    def __init__(self, deadline: float, log: Path) -> None:
        self.deadline = deadline
        self.log = log
        self.rows: list[dict[str, Any]] = []
        self.detail = ""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def run(
        self, command: Sequence[str | Path], variables: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit status and output of a command; at the deadline it is ended with its children.

        Raises Failed then, and NotRun when there is no such program.
        """
        started = self.log.stat().st_size
        with self.log.open("a") as output:
            output.write(f"$ {' '.join(map(str, command))}\n")
            output.flush()
            try:
                process = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(variables or {})},
                    start_new_session=True,
                )
            except FileNotFoundError as missing:
                raise NotRun(f"there is no {missing.filename}") from None
            try:
                status = process.wait(max(self.left(), 0.1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise Failed("took too long and was ended") from None
        return status, self.log.read_bytes()[started:].decode(errors="replace")


@dataclass(frozen=True)
class Step:
    """A named part of the run. seconds: its own limit."""

    name: str
    seconds: float
    run: Callable[[Job], None]


def tail(output: str, lines: int = TAIL_LINES) -> str:
    return "\n".join(output.rstrip().splitlines()[-lines:])


def run_step(step: Step, deadline: float, logs: Path) -> Outcome:
    started = time.monotonic()
    if deadline - started < SECONDS_MIN:
        return Outcome(step.name, "skipped", detail="no time was left")
    job = Job(min(deadline, started + step.seconds), logs / f"{step.name.replace(' ', '-')}.log")
    verdict = "passed"
    try:
        step.run(job)
    except NotRun as reason:
        verdict, job.detail = "not run", str(reason)
    except Failed as reason:
        verdict, job.detail = "failed", str(reason)
    except Exception as error:  # a mistake in a step must not cost the figures of the others
        verdict, job.detail = "failed", f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    return Outcome(step.name, verdict, round(seconds, 1), job.detail, job.rows)


def run_steps(
    steps: Sequence[Step], deadline: float, logs: Path, say: Callable[[Outcome], None]
) -> list[Outcome]:
    outcomes = []
    for step in steps:
        outcomes.append(run_step(step, deadline, logs))
        say(outcomes[-1])
    return outcomes
