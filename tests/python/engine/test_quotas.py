"""Tenants with quotas in one engine: everybody finishes, and with the same tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pagedkv
from pagedkv.engine import (
    Completion,
    Engine,
    Model,
    Progress,
    Request,
    Sampler,
    cache_for,
    generate_alone,
)

OTHER, CHAT, BATCH = 0, 1, 2
LIMIT, GUARANTEED = 14, 12


def make_requests(count: int) -> list[Request]:
    """Short ones of the chat, long ones of the batch job, and some of nobody in particular."""
    draw = np.random.default_rng(3)
    requests = []
    for index in range(count):
        tenant = (CHAT, BATCH, BATCH, OTHER)[index % 4]
        length = int(draw.integers(30, 60) if tenant == BATCH else draw.integers(5, 30))
        prompt = draw.integers(0, 61, length).astype(np.uint32)
        requests.append(Request(f"r{index}", prompt, 16, tenant=tenant))
    return requests


def alone(model: Model, requests: list[Request]) -> list[list[int]]:
    return [
        generate_alone(
            model,
            request.prompt,
            request.max_tokens,
            Sampler(request.sampling, number, 0),
            model.config.stop_tokens,
            "f32",
        )[0]
        for number, request in enumerate(requests)
    ]


def serve(model: Model, requests: list[Request], blocks: int) -> list[Completion]:
    """Run with quotas; the limit is kept after every step."""
    with cache_for(model.config, blocks, block_tokens=8, batch=8, tenants=2) as cache:
        cache.set_tenant(CHAT, guaranteed=GUARANTEED)
        cache.set_tenant(BATCH, limit=LIMIT)

        def look(progress: Progress) -> None:
            info = cache.tenant(BATCH)
            assert info.blocks_active + info.blocks_cached <= LIMIT
            cache.check()

        done = Engine(model, cache, batch=8, step_tokens=64).run(requests, look)
        assert cache.stats().blocks_active == 0
    return done


def test_all_tenants_finish_with_the_tokens_they_have_alone(model: Model) -> None:
    requests = make_requests(32)
    done = serve(model, requests, blocks=36)
    assert [item.tokens.tolist() for item in done] == alone(model, requests)


def test_a_guarantee_spares_its_tenant_from_giving_way(model: Model) -> None:
    """Two of at most six blocks: they never have more than is guaranteed, come late, and wait for
    nobody."""
    requests = [
        dataclasses.replace(request, tenant=CHAT if index in (20, 24) else OTHER)
        for index, request in enumerate(make_requests(32))
    ]
    done = serve(model, requests, blocks=26)
    preempted = {item.request.tenant for item in done if item.preemptions}
    assert preempted == {OTHER}


def test_injected_refusals_are_waited_for(model: Model) -> None:
    requests = make_requests(16)
    with pagedkv.faults("pool.take=5%return(EQUOTA)", seed=2):
        done = serve(model, requests, blocks=40)
    assert [item.tokens.tolist() for item in done] == alone(model, requests)
