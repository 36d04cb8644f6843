"""What the quotas of tenants (`Cache.set_tenant`) mean for requests that wait.

A tenant that is short of blocks is short of one of two things, and they are waited for differently:

    own     what its limit leaves it: only samples of its own can make more of it, and nobody else
            needs to wait for them
    pool    what all tenants together leave, guarantees included: everybody who needs some of it
            waits in line. What is `ahead` within a tenant's own guarantee is not in it, and can be
            taken past the line
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagedkv import Cache, TenantInfo

    from .scheduler import Chunk


@dataclass(frozen=True)
class Room:
    """Blocks that one tenant could have, when running samples have what they are owed."""

    own: int
    ahead: int
    pool: int

    @property
    def blocks(self) -> int:
        """At the head of the line. May be negative while outputs grow."""
        return self.ahead + max(self.pool, 0) if self.ahead > 0 else self.pool

    def fits(self, need: int, overtakes: bool) -> bool:
        """Whether the pool, or for who overtakes the guarantee alone, has `need` blocks."""
        return need <= (self.ahead if overtakes else self.blocks)


def room(cache: Cache, tenant: int, owed: Mapping[int, int]) -> Room:
    """The room of `tenant`; `owed` are the blocks that running samples of each still need."""
    stats = cache.stats()
    quotas = {info.tenant: info for info in cache.tenants()}
    shared = stats.blocks_active - sum(info.blocks_active for info in quotas.values())
    shared += sum(blocks for other, blocks in owed.items() if other not in quotas)
    claimed = shared + sum(
        max(info.guaranteed, info.blocks_active + owed.get(other, 0))
        for other, info in quotas.items()
    )
    pool = stats.blocks_total - claimed
    if tenant not in quotas:
        return Room(stats.blocks_total, 0, pool)
    info = quotas[tenant]
    used = info.blocks_active + owed.get(tenant, 0)
    own = _limit(info, stats.blocks_total) - used
    return Room(own, max(info.guaranteed - used, 0), pool)


def most_blocks(cache: Cache, tenant: int) -> int:
    """The most blocks that `tenant` could ever have while quotas are as they are."""
    total = cache.stats().blocks_total
    guaranteed = sum(info.guaranteed for info in cache.tenants() if info.tenant != tenant)
    return min(_limit(cache.tenant(tenant), total), total - guaranteed)


def _limit(info: TenantInfo, total: int) -> int:
    if not info.has_quota:
        return total
    return min((info.limit or total) if info.borrow else info.guaranteed, total)


def tenants_over_limit(cache: Cache, chunks: Iterable[Chunk]) -> set[int]:
    """Who is refused `chunks` by its limit. When copies of shared blocks, which are not counted
    here, are what is too much: who is nearest to it."""
    left = {}
    for tenant, need in _needs(cache, chunks).items():
        info = cache.tenant(tenant)
        if info.has_quota:
            limit = _limit(info, cache.stats().blocks_total)
            left[tenant] = limit - info.blocks_active - need
    return {tenant for tenant in left if left[tenant] < 0 or left[tenant] == min(left.values())}


def tenants_that_borrow(cache: Cache, chunks: Iterable[Chunk]) -> set[int]:
    """Who has, or would have with `chunks`, more than it is guaranteed."""
    borrowers = set()
    for tenant, need in _needs(cache, chunks).items():
        info = cache.tenant(tenant)
        if not info.has_quota or info.blocks_active + need > info.guaranteed:
            borrowers.add(tenant)
    return borrowers


def _needs(cache: Cache, chunks: Iterable[Chunk]) -> dict[int, int]:
    """Blocks that chunks take, for each tenant."""
    size = cache.block_tokens
    needs: dict[int, int] = {}
    for chunk in chunks:
        begin = chunk.sample.computed
        pages = -(-(begin + chunk.count) // size) - -(-begin // size)
        tenant = chunk.sample.request.tenant
        needs[tenant] = needs.get(tenant, 0) + pages
    return needs
