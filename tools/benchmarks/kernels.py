"""The CPU device against the limits of this machine, and against torch."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object a line")


def run(options: argparse.Namespace) -> int:
    print("nothing is measured yet", file=sys.stderr)
    return 1
