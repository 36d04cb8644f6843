"""The beams of one search on their way through the scheduler: samples that live and wait together.

    waiting            running: prompt       running: beams                      waiting again
    lead, n seats -->  lead, n - 1 to come   one sample each, forks of one --->  lead, which stands
                                             another, all in every step          for all of them
                          ^------------------- unfold, when what they share ------+
                                               has been computed again

A beam that goes on keeps its sequence; one that goes on in several ways is forked, and blocks are
shared until they are written; one that nobody continues gives its sequence back first, so that the
group never holds more sequences than it has seats.

When blocks are short the group is preempted as a whole (`fold`). Its lead then waits with the
tokens that all beams have in common, and forks again when these have been computed: the group never
takes more blocks than if its beams shared the whole blocks of the prompt alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .beam import BeamSearch
from .request import Completion, Sample, complete

if TYPE_CHECKING:
    from pagedkv import Sequence


class BeamGroup:
    """The samples of one beam search; `members[i]` carries beam i of `search`, the first one leads.

    length    tokens of every beam; the lead has fewer while it stands for all
    """

    def __init__(self, lead: Sample, stop_tokens: tuple[int, ...]) -> None:
        params = lead.request.beam
        assert params is not None, "only a request that asks for beams has a group"
        self.search = BeamSearch(params, lead.request.max_tokens, stop_tokens)
        self.members = [lead]
        self.length = lead.length
        self._made = 1
        self._rows: dict[int, NDArray[Any]] = {}

    @property
    def is_folded(self) -> bool:
        """Whether the lead stands for beams that have no sequence."""
        return len(self.members) > 1 and self.members[0].siblings > 0

    def take(self, sample: Sample, row: NDArray[Any]) -> NDArray[Any] | None:
        """Note the logits of one beam; returns [beams, vocab] when those of all are there."""
        self._rows[id(sample)] = row
        if len(self._rows) < len(self.members):
            return None
        rows = np.stack([self._rows[id(member)] for member in self.members])
        self._rows.clear()
        return rows

    def branch(self, choices: list[tuple[int, int]], now: float) -> None:
        """Continue as the search chose: (parent, token) of each new beam, best first."""
        parents = self.members
        parents[0].siblings = 0
        continued = {parent for parent, _ in choices}
        spare = [member for place, member in enumerate(parents) if place not in continued]
        for member in spare:
            member.release()
        self.members = []
        for parent, _ in choices:
            member = parents[parent]
            if member in self.members:
                member = spare.pop() if spare else self._another()
                _fork(parents[parent], member)
            self.members.append(member)
        for member, (_, token) in zip(self.members, choices, strict=True):
            member.append(token, now)
        self.length += 1

    def fold(self) -> Sample:
        """Give all sequences back. Returns the lead, which has to wait for all."""
        lead = self.members[0]
        for member in self.members:
            member.release()
        self._rows.clear()
        if len(self.members) > 1:
            lead.siblings = len(self.members) - 1
            lead.length = len(lead.request.prompt) + _common(self.search.generated)
        return lead

    def unfold(self) -> None:
        """Let the others fork off the lead, which has computed what all have in common."""
        lead, *others = self.members
        for member in others:
            member.attach(_sequence(lead).fork(), lead.computed)
            member.preemptions = lead.preemptions
        lead.length = self.length
        lead.siblings = 0

    def finish(self, now: float) -> list[Completion]:
        """Give all sequences back. Returns as many of the best hypotheses as the request wants,
        best first."""
        lead = self.members[0]
        for member in self.members:
            member.release()
        lead.last_token = now
        if lead.first_token is None:
            lead.first_token = now
        best = self.search.hypotheses[: lead.request.samples]
        return [
            complete(lead, one.finish, place, np.array(one.tokens, np.uint32), one.score)
            for place, one in enumerate(best)
        ]

    def _another(self) -> Sample:
        """A carrier for one more beam."""
        lead = self.members[0]
        made = Sample(lead.request, self._made, (lead.order[0], self._made), lead.arrived)
        self._made += 1
        made.first_token, made.reused, made.preemptions = (
            lead.first_token, lead.reused, lead.preemptions
        )  # fmt: skip
        made.siblings = 0
        made.beams = self
        return made


def _fork(parent: Sample, child: Sample) -> None:
    """Make `child` as `parent` is, sharing its blocks."""
    child.attach(_sequence(parent).fork(), parent.computed)
    child.length = parent.length
    child.tokens[: parent.length] = parent.tokens[: parent.length]


def _sequence(sample: Sample) -> Sequence:
    assert sample.sequence is not None, "only running samples are forked"
    return sample.sequence


def _common(generated: list[list[int]]) -> int:
    """How many tokens at the front are the same in all."""
    rows = np.array(generated)
    differ = (rows != rows[0]).any(axis=0)
    return int(differ.argmax()) if differ.any() else len(differ)
