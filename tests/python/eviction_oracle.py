"""Policies of eviction as one would write them on paper: a choice is a search through all blocks.

The learned policy is not among them: what it should choose is no matter of a few lines. Blocks that
were evicted are remembered for ever, which the library does as long as there are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Node:
    """A block in the cache: reachable from its parent while both are there."""

    path: tuple[int, ...]
    children: dict[int, Node] = field(default_factory=dict)
    parent: Node | None = None
    in_use: bool = True
    uses: int = 1
    key: Any = None  # of the policy


class Policy:
    """Least recently used; the others change what they need to."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.clock = 0
        self.nodes: list[Node] = []
        self.gone: dict[tuple[int, ...], str] = {}

    def enter(self, node: Node) -> None:
        """The block has been computed."""

    def use(self, node: Node) -> None:
        """The block, which was idle, has been found."""

    def rest(self, node: Node, behind: int) -> None:
        """Its request has ended, in which `behind` blocks came after it."""
        self.clock += 1
        node.key = self.clock

    def idle(self) -> list[Node]:
        return [node for node in self.nodes if not node.in_use]

    def victim(self) -> Node:
        return min(self.idle(), key=lambda node: node.key)


class Fifo(Policy):
    def rest(self, node: Node, behind: int) -> None:
        self.clock += 1
        if node.key is None:
            node.key = (1, self.clock)
        elif node.key == "overdue":
            node.key = (0, self.clock)

    def victim(self) -> Node:
        found = super().victim()
        for node in self.nodes:
            if node.in_use and isinstance(node.key, tuple) and node.key < found.key:
                node.key = "overdue"
        return found


class Weighted(Policy):
    level = 0

    def weight(self, node: Node, behind: int) -> int:
        raise NotImplementedError

    def rest(self, node: Node, behind: int) -> None:
        self.clock += 1
        node.key = (self.level + min(63, self.weight(node, behind)), self.clock)

    def victim(self) -> Node:
        found = super().victim()
        self.level = found.key[0]
        return found


class Lfu(Weighted):
    def weight(self, node: Node, behind: int) -> int:
        return node.uses


class GreedyDual(Weighted):
    def weight(self, node: Node, behind: int) -> int:
        return behind + 1


class Slru(Policy):
    def rest(self, node: Node, behind: int) -> None:
        self.clock += 1
        node.key = (int(node.uses > 1), self.clock)
        protected = [other for other in self.idle() if other.key[0] == 1]
        if len(protected) > self.capacity * 4 // 5:
            self.clock += 1
            min(protected, key=lambda other: other.key).key = (0, self.clock)


class Arc(Policy):
    target = 0

    def enter(self, node: Node) -> None:
        node.key = "once"
        ghost = self.gone.get(node.path)
        if ghost is None:
            return
        del self.gone[node.path]
        node.key = "often"
        once = sum(where == "once" for where in self.gone.values())
        often = sum(where == "often" for where in self.gone.values())
        if ghost == "once":
            self.target = min(self.capacity, self.target + self.step(once, often))
        else:
            self.target = max(0, self.target - self.step(often, once))

    @staticmethod
    def step(own: int, other: int) -> int:
        return max(1, other // own) if own else 1

    def use(self, node: Node) -> None:
        node.key = "often"

    def rest(self, node: Node, behind: int) -> None:
        self.clock += 1
        node.key = ("often" if node.key == "often" else "once", self.clock)

    def victim(self) -> Node:
        once = [node for node in self.idle() if node.key[0] == "once"]
        often = [node for node in self.idle() if node.key[0] == "often"]
        chosen = once if once and (len(once) > self.target or not often) else often
        found = min(chosen, key=lambda node: node.key[1])
        self.gone[found.path] = found.key[0]
        return found


@dataclass
class _Turns:
    """Key of S3Fifo: uses that count, and whether the main queue is where it belongs."""

    uses: int = 0
    is_main: bool = False


class S3Fifo(Policy):
    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.small: list[Node] = []
        self.main: list[Node] = []

    def enter(self, node: Node) -> None:
        node.key = _Turns(is_main=self.gone.pop(node.path, None) == "small")

    def use(self, node: Node) -> None:
        node.key.uses = min(3, node.key.uses + 1)

    def rest(self, node: Node, behind: int) -> None:
        if node not in self.small and node not in self.main:
            (self.main if node.key.is_main else self.small).append(node)

    def victim(self) -> Node:
        while True:
            is_small = not self.main or len(self.small) > self.capacity // 10
            node = (self.small if is_small else self.main).pop(0)
            if node.in_use:
                node.key.is_main = True
            elif node.key.uses == 0:
                self.gone[node.path] = "small" if is_small else "main"
                return node
            else:
                node.key = _Turns(0 if is_small else node.key.uses - 1, True)
                self.main.append(node)


POLICIES: dict[str, type[Policy]] = {
    "lru": Policy,
    "fifo": Fifo,
    "lfu": Lfu,
    "slru": Slru,
    "s3fifo": S3Fifo,
    "arc": Arc,
    "greedydual": GreedyDual,
}


def hits(requests: Iterable[Sequence[int]], name: str, capacity: int) -> int:
    """Blocks that the requests find in a cache of `capacity` blocks."""
    policy = POLICIES[name](capacity)
    roots: dict[int, Node] = {}
    total = 0
    for request in requests:
        held = _match(policy, roots, request[:capacity])
        total += len(held)
        missing = len(request[:capacity]) - len(held)
        for _ in range(len(policy.nodes) + missing - capacity):
            _remove(policy, roots, policy.victim())
        for block in request[len(held) : capacity]:
            held.append(_add(policy, roots, held[-1] if held else None, block))
        for behind, node in enumerate(reversed(held)):
            node.in_use = False
            policy.rest(node, behind)
    return total


def _match(policy: Policy, roots: dict[int, Node], request: Sequence[int]) -> list[Node]:
    found: list[Node] = []
    children = roots
    for block in request:
        if block not in children:
            break
        node = children[block]
        found.append(node)
        children = node.children
    for node in found:
        node.uses += 1
        node.in_use = True
        policy.use(node)
    return found


def _add(policy: Policy, roots: dict[int, Node], parent: Node | None, block: int) -> Node:
    node = Node((*(parent.path if parent else ()), block), parent=parent)
    (parent.children if parent else roots)[block] = node
    policy.nodes.append(node)
    policy.enter(node)
    return node


def _remove(policy: Policy, roots: dict[int, Node], node: Node) -> None:
    """Take a node out; its children are out of reach from now on, and stay until they go."""
    policy.nodes.remove(node)
    siblings = node.parent.children if node.parent else roots
    if siblings.get(node.path[-1]) is node:
        del siblings[node.path[-1]]
