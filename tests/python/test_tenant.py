"""Quotas of tenants from Python."""

from collections.abc import Iterator
from typing import Any

import pagedkv
import pytest
from support import BLOCK, grow, make_cache

CHAT, BATCH = 7, 2**64 - 1


@pytest.fixture
def cache() -> Iterator[pagedkv.Cache]:
    """16 blocks of 4 tokens, and quotas for two tenants."""
    with make_cache(blocks=16, tenants=2, host_blocks=4) as cache:
        yield cache


def tokens(blocks: int, first: int = 0) -> list[int]:
    return list(range(first, first + blocks * BLOCK))


def test_without_quotas_tenants_are_counted_together(cache: pagedkv.Cache) -> None:
    sequence = cache.sequence(CHAT)
    grow(cache, sequence, tokens(3))
    info = cache.tenant(5)
    assert not info.has_quota
    assert info.borrow
    assert (info.blocks_active, info.blocks_available, info.sequences) == (3, 13, 1)
    assert cache.tenants() == []


def test_what_was_set_is_reported(cache: pagedkv.Cache) -> None:
    cache.set_tenant(BATCH, guaranteed=2, limit=6, borrow=False)
    cache.set_tenant(CHAT, guaranteed=4)
    info = cache.tenant(BATCH)
    assert (info.tenant, info.has_quota, info.guaranteed, info.limit) == (BATCH, True, 2, 6)
    assert not info.borrow
    assert [info.tenant for info in cache.tenants()] == [BATCH, CHAT]


def test_a_tenant_at_its_limit(cache: pagedkv.Cache) -> None:
    cache.set_tenant(BATCH, limit=4)
    sequence = cache.sequence(BATCH)
    grow(cache, sequence, tokens(3))
    with pytest.raises(pagedkv.QuotaError, match="the tenant is at its limit") as caught:
        cache.step([(sequence, tokens(2))]).abort()
    assert isinstance(caught.value, MemoryError)
    assert cache.tenant(BATCH).refused == 1
    assert cache.tenant(BATCH).blocks_available == 1
    grow(cache, cache.sequence(CHAT), tokens(12))


def test_a_guarantee_is_kept_for_its_tenant(cache: pagedkv.Cache) -> None:
    cache.set_tenant(CHAT, guaranteed=6)
    batch = cache.sequence(BATCH)
    with pytest.raises(pagedkv.OutOfBlocks):
        cache.step([(batch, tokens(11))]).abort()
    grow(cache, batch, tokens(10))
    grow(cache, cache.sequence(CHAT), tokens(6))
    cache.check()


def test_a_limit_holds_for_swapping_in(cache: pagedkv.Cache) -> None:
    cache.set_tenant(BATCH, limit=4)
    sequence = cache.sequence(BATCH)
    grow(cache, sequence, tokens(3))
    with sequence.swap_out():
        pass
    assert cache.tenant(BATCH).host_blocks == 3
    other = cache.sequence(BATCH)
    grow(cache, other, tokens(2, 100))
    with pytest.raises(pagedkv.QuotaError):
        sequence.swap_in().cancel()


def test_delete(cache: pagedkv.Cache) -> None:
    cache.set_tenant(CHAT, guaranteed=6)
    sequence = cache.sequence(CHAT)
    grow(cache, sequence, tokens(2))
    with pytest.raises(pagedkv.Busy, match="delete_tenant: tenant 7"):
        cache.delete_tenant(CHAT)
    sequence.close()
    assert cache.tenant(CHAT).blocks_cached == 2
    cache.delete_tenant(CHAT)
    assert cache.stats().blocks_cached == 0
    with pytest.raises(pagedkv.InvalidArgument):
        cache.delete_tenant(CHAT)


REFUSED: dict[str, tuple[dict[str, Any], type[pagedkv.Error], str]] = {
    "limit": ({"guaranteed": 5, "limit": 4}, pagedkv.InvalidArgument, "guaranteed 5, limit 4"),
    "pool": ({"guaranteed": 17}, pagedkv.TooBig, "tenant 7, guaranteed 17"),
    "number": ({"guaranteed": -1}, pagedkv.InvalidArgument, "guaranteed: expected 0 to 2"),
    "type": ({"limit": "9"}, pagedkv.InvalidArgument, "limit: expected an integer, got str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_quotas_that_cannot_be(cache: pagedkv.Cache, case: str) -> None:
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        cache.set_tenant(CHAT, **options)
    assert not cache.tenant(CHAT).has_quota


def test_tenants_are_numbers_and_there_are_only_so_many(cache: pagedkv.Cache) -> None:
    with pytest.raises(pagedkv.InvalidArgument, match="tenant: expected 0 to 2"):
        cache.tenant(-1)
    with pytest.raises(pagedkv.InvalidArgument, match="tenant: expected an integer"):
        cache.set_tenant("chat")  # type: ignore[arg-type]
    cache.set_tenant(1)
    cache.set_tenant(2)
    with pytest.raises(pagedkv.TooBig):
        cache.set_tenant(3)


def test_a_closed_cache_has_no_tenants() -> None:
    cache = make_cache(tenants=2)
    cache.close()
    for call in (cache.tenants, lambda: cache.tenant(1), lambda: cache.set_tenant(1)):
        with pytest.raises(pagedkv.StaleHandle):
            call()
