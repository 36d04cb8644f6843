"""Engines that are looked at when a test is through with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pagedkv.engine import Engine, Model, SpeculateParams, cache_for


@contextmanager
def sound_engine(
    model: Model, settings: dict[str, Any], speculate: SpeculateParams | None = None
) -> Iterator[Engine]:
    """An engine that leaves a sound and empty cache behind, whatever happened in between.

    settings  of cache_for, with "batch" and "step_tokens"
    """
    with cache_for(model.config, **settings) as cache:
        yield Engine(model, cache, settings["batch"], settings["step_tokens"], speculate=speculate)
        cache.check()
        assert cache.stats().blocks_active == 0
        assert cache.stats().sequences == 0
