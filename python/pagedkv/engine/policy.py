"""Who is served first, and who gives way when the blocks run out.

A policy is two small functions over samples; the scheduler owns everything else. To keep the
promise that every request finishes, a policy must be stable: the sample that it puts first must
not be its victim while another is running, or two samples could preempt each other for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .request import Sample


class Policy(Protocol):
    """What the scheduler asks."""

    def priority(self, sample: Sample) -> Any:
        """A sort key: the smallest is admitted, and fed, first."""
        ...

    def victim(self, running: Sequence[Sample]) -> Sample:
        """Which of `running` (at least one) gives its blocks back and is recomputed later."""
        ...


class ArrivalOrder:
    """First come, first served; the youngest gives way.

    The oldest running sample is never preempted by others, so it finishes, then the next one does.
    """

    def priority(self, sample: Sample) -> tuple[int, int]:
        return sample.order

    def victim(self, running: Sequence[Sample]) -> Sample:
        return max(running, key=self.priority)
