"""`pagedkv info`: what this installation is and can do."""

from __future__ import annotations

import argparse
import os

import pagedkv

DEVICES = ("cpu", "cuda", "sim")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pagedkv info`."""
    parser.add_argument(
        "--faults", action="store_true", help="list every fault point with its hit counts"
    )


def run(options: argparse.Namespace) -> int:
    """Print the facts, one per line; returns the exit code."""
    faults = os.environ.get("PKV_FAULTS", "")
    # A cache of one block: the instruction set is chosen, and faults are armed, when one is made.
    with pagedkv.Cache(layers=1, kv_heads=1, head_dim=16, blocks=1, sequences=1) as cache:
        points = cache.fault_points()
        rows = {
            "version": pagedkv.__version__,
            "library": pagedkv.get_library(),
            "header": pagedkv.get_include(),
            "instruction set": cache.isa,
            "threads": cache.threads,
            "devices": ", ".join(name for name in DEVICES if pagedkv.why_absent(name) is None),
            "cuda": pagedkv.why_absent("cuda") or "present",
            "fault points": len(points),
            "faults armed": faults or "none",
        }
    for name, value in rows.items():
        print(f"{name:<17}{value}")
    if options.faults:
        width = max((len(point.name) for point in points), default=0)
        print(f"\n{'point':<{width}}  {'visits':>8}  {'fired':>8}  meaning")
        for point in points:
            print(f"{point.name:<{width}}  {point.visits:>8}  {point.fired:>8}  {point.meaning}")
    return 0
