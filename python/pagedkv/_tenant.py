"""Quotas of tenants: the part of the cache that says who may have how many blocks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ._ffi import check, ffi, lib
from ._values import unsigned

__all__ = ["TenantInfo", "delete_quota", "read_tenant", "read_tenants", "set_quota"]


@dataclass(frozen=True)
class TenantInfo:
    """What a tenant has at one moment; with has_quota False, what all tenants without one have.

    guaranteed, limit       as they were set; limit 0: none
    borrow                  whether it may have more than it is guaranteed
    blocks_active           blocks that its sequences name
    blocks_cached           blocks that only the prefix index names
    blocks_borrowed         of both, beyond the guarantee
    blocks_available        so many more its sequences could have now: quotas and memory
    host_blocks             blocks of the host tier
    sequences               alive, and pins
    refused                 calls that raised QuotaError on its account
    evictions               cached blocks that it lost
    prefix_query_tokens, prefix_hit_tokens      as in Stats
    """

    tenant: int
    has_quota: bool
    guaranteed: int
    limit: int
    borrow: bool
    blocks_active: int
    blocks_cached: int
    blocks_borrowed: int
    blocks_available: int
    host_blocks: int
    sequences: int
    refused: int
    evictions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int


_SAME = tuple(f.name for f in fields(TenantInfo) if f.name not in ("has_quota", "borrow"))


def set_quota(handle: Any, tenant: int, guaranteed: int, limit: int, borrow: bool) -> None:
    config = ffi.new("pkv_tenant_config*")
    config.tenant = unsigned("tenant", tenant, bits=64)
    config.guaranteed = unsigned("guaranteed", guaranteed)
    config.limit = unsigned("limit", limit)
    config.borrow_off = not borrow
    what = f"Cache.set_tenant: tenant {tenant}, guaranteed {guaranteed}, limit {limit}"
    check(lib.pkv_tenant_set(handle, config), what)


def delete_quota(handle: Any, tenant: int) -> None:
    number = unsigned("tenant", tenant, bits=64)
    check(lib.pkv_tenant_delete(handle, number), f"Cache.delete_tenant: tenant {tenant}")


def read_tenant(handle: Any, tenant: int) -> TenantInfo:
    info = ffi.new("pkv_tenant_info*")
    number = unsigned("tenant", tenant, bits=64)
    check(lib.pkv_tenant_get(handle, number, info), "Cache.tenant")
    same = {name: getattr(info, name) for name in _SAME}
    return TenantInfo(has_quota=bool(info.has_quota), borrow=not info.borrow_off, **same)


def read_tenants(handle: Any, capacity: int) -> list[TenantInfo]:
    numbers = ffi.new("uint64_t[]", capacity)
    count = ffi.new("uint32_t*")
    check(lib.pkv_tenant_list(handle, numbers, capacity, count), "Cache.tenants")
    return [read_tenant(handle, number) for number in numbers[0 : count[0]]]
