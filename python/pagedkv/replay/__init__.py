"""Replaying traces of requests through the cache, to compare policies of eviction."""

from ._replay import Result, replay
from ._synthetic import KINDS, synthetic
from ._traces import Trace, load

__all__ = ["KINDS", "Result", "Trace", "load", "replay", "synthetic"]
