"""The `pagedkv` command: `run` serves prompts, `replay` compares evictions, `info` tells facts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pagedkv

from . import info, replay, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code. Bad usage exits with 2, as argparse does."""
    parser = argparse.ArgumentParser(prog="pagedkv", description=pagedkv.__doc__)
    parser.add_argument("--version", action="version", version=f"pagedkv {pagedkv.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module, summary in (
        (run, "serve prompts with a model from paged KV"),
        (replay, "replay a trace against policies of eviction"),
        (info, "print version, instruction set, devices and fault points"),
    ):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(carry_out=module.run)
    options = parser.parse_args(arguments)
    try:
        code: int = options.carry_out(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does: nothing left to say, and to no one.
        sys.stderr.close()
        return 1
    return code
