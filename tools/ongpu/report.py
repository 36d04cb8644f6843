"""The report of a run: figures beside their limits and goals; one JSON and one Markdown file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ongpu.budget import Outcome

Row = dict[str, Any]
PIECE_MIB = 1 << 20

# What a figure is held against: the name of a row, what is compared, the least of it.
DECODE_GOALS = {
    "decode B=32 L=4096 BF16": 0.92,
    "decode B=1 L=131072 BF16": 0.90,
    "decode B=256 L=1024 BF16": 0.90,
    "decode B=64 L=8192 BF16": 0.90,
    "decode B=32 L=4096 E4M3": 0.82,
    "decode B=32 L=4096 I8": 0.82,
}
SHORT_DECODE = "decode B=1 L=1024 BF16"
SHORT_DECODE_SECONDS = 8e-6
QUANTISED_SPEEDUP = 1.7
PREFILL_OPERATIONS_PER_S = 300e12
SWAP_SHARE = 0.90
SWAP_BOTH_SHARE = 0.80
OVERLAP_SLOWDOWN = 1.03
NMSE_MAX = 1e-3  # of an attention row: with more it is wrong, and its time means nothing


def goal(text: str, value: float, met: bool) -> Row:
    return {"goal": text, "value": value, "met": met}


def _decode(row: Row, rows: dict[str, Row]) -> Iterable[Row]:
    name = row["row"]
    if name in DECODE_GOALS:
        least = DECODE_GOALS[name]
        share = row["fraction_of_copy"]
        yield goal(f"at least {least:.0%} of the copy bandwidth", share, share >= least)
    if name == SHORT_DECODE:
        seconds = row["seconds"]
        yield goal("at most 8 us", seconds, seconds <= SHORT_DECODE_SECONDS)
    plain = rows.get("decode B=32 L=4096 BF16")
    if name.endswith(("E4M3", "I8")) and plain is not None:
        ratio = plain["seconds"] / row["seconds"]
        yield goal("at least 1.7 times the speed of bf16", ratio, ratio >= QUANTISED_SPEEDUP)


def _prefill(row: Row, rows: dict[str, Row]) -> Iterable[Row]:
    rate = row["operations_per_s"]
    yield goal("at least 300 TFLOP/s", rate, rate >= PREFILL_OPERATIONS_PER_S)


def _swap(row: Row, rows: dict[str, Row]) -> Iterable[Row]:
    if row["how"] != "batch":
        return
    own = {way: rows.get(f"swap {way} one by one") for way in ("out", "in")}
    if row["way"] in own:
        limit = own[row["way"]]
        if limit is not None:
            share = row["bytes_per_s"] / limit["bytes_per_s"]
            yield goal("at least 90% of 16 MiB copies", share, share >= SWAP_SHARE)
    elif own["out"] is not None and own["in"] is not None:
        share = row["bytes_per_s"] / (own["out"]["bytes_per_s"] + own["in"]["bytes_per_s"])
        yield goal("at least 80% of the sum of both ways", share, share >= SWAP_BOTH_SHARE)


def _overlap(row: Row, rows: dict[str, Row]) -> Iterable[Row]:
    """What is copied crosses the memory of the GPU as well, which alone costs decode `floor`."""
    copies = rows.get(f"overlap copies both {row['how']}")
    if copies is not None:
        share = copies["bytes_per_s"] / row["read_bytes_per_s"]
        row["floor"] = 1 / (1 - share) if share < 1 else float("inf")
    if row["how"] == "batch" and "seconds_busy" in row:
        ratio = row["seconds_busy"] / row["seconds_alone"]
        yield goal("at most 3% slower", ratio, ratio <= OVERLAP_SLOWDOWN)


_GOALS: dict[str, Callable[[Row, dict[str, Row]], Iterable[Row]]] = {
    "decode": _decode,
    "prefill": _prefill,
    "swap": _swap,
    "overlap": _overlap,
}


def _name(row: Row) -> str:
    return str(row.get("row") or f"{row['section']} {row.get('way', '')} {row.get('how', '')}")


def _add_rates(row: Row, machine: Row) -> None:
    """What a row of attention is a part of."""
    if "set_bytes" not in row:
        return
    row["bytes_per_s"] = row["bytes"] / row["seconds"]
    row["operations_per_s"] = row["operations"] / row["seconds"]
    row["fraction_of_copy"] = row["bytes_per_s"] / row["copy_bytes_per_s"]
    row["fraction_of_read"] = row["bytes_per_s"] / row["read_bytes_per_s"]
    if machine.get("mma_operations_per_s"):
        row["fraction_of_mma"] = row["operations_per_s"] / machine["mma_operations_per_s"]
    least = max(2 * machine.get("l2_bytes", 0), row.get("set_bytes_least", 0))
    if row["set_bytes"] < least:
        row["problem"] = f"the set has less than {least} bytes, which the cache of the GPU helps"
    if not row["nmse"] <= NMSE_MAX:
        row["problem"] = f"wrong: the output is off by NMSE {row['nmse']:.2g}"


def judge(outcomes: Iterable[Outcome]) -> Row:
    """All rows of a run with rates and goals: {"machine": ..., "rows": [...]}."""
    raw = [dict(row) for outcome in outcomes for row in outcome.rows]
    machine = next((row for row in raw if row.get("section") == "machine"), {})
    rows = [row for row in raw if row.get("section") != "machine"]
    for row in rows:
        _add_rates(row, machine)
    by_name = {_name(row): row for row in rows if "problem" not in row}
    for row in rows:
        find = _GOALS.get(row["section"])
        has_figures = find is not None and "problem" not in row
        row["goals"] = list(find(row, by_name)) if find is not None and has_figures else []
    return {"machine": machine, "rows": rows}


def wrong_rows(judged: Row) -> list[str]:
    return [_name(row) for row in judged["rows"] if "wrong" in row.get("problem", "")]


# ---- Text ----------------------------------------------------------------------------------------


def _share(row: Row, key: str) -> str:
    return f"{row[key]:.1%}" if key in row else ""


def _verdict(row: Row) -> str:
    if "problem" in row:
        return str(row["problem"])
    said = []
    for entry in row["goals"]:
        value = entry["value"]
        shown = f"{value * 1e6:.1f} us" if "us" in entry["goal"] else f"{value:.3g}"
        said.append(f"{entry['goal']}: {shown}{'' if entry['met'] else ' MISSED'}")
    return "; ".join(said)


def _table(head: list[str], lines: Iterable[list[str]]) -> list[str]:
    body = [f"| {' | '.join(line)} |" for line in lines]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body, ""] if body else []


def _attention(rows: list[Row]) -> list[str]:
    head = ["work", "time", "TB/s", "of copy", "of read", "TFLOP/s", "of mma.sync", "goals"]
    return _table(
        head,
        (
            [
                row["row"],
                f"{row['seconds'] * 1e6:.1f} us",
                f"{row['bytes_per_s'] / 1e12:.2f}",
                _share(row, "fraction_of_copy"),
                _share(row, "fraction_of_read"),
                f"{row['operations_per_s'] / 1e12:.1f}",
                _share(row, "fraction_of_mma"),
                _verdict(row),
            ]
            for row in rows
            if "set_bytes" in row
        ),
    )


def _stores(rows: list[Row]) -> list[str]:
    return _table(
        ["write and read", "time", "TB/s", "of copy"],
        (
            [
                row["row"],
                f"{row['seconds'] * 1e6:.1f} us",
                f"{row['moved_bytes'] / row['seconds'] / 1e12:.2f}",
                f"{row['moved_bytes'] / row['seconds'] / row['copy_bytes_per_s']:.0%}",
            ]
            for row in rows
            if row["section"] == "store"
        ),
    )


def _copies(rows: list[Row]) -> list[str]:
    return _table(
        ["copies", "piece", "pieces", "GB/s", "goals"],
        (
            [
                f"{row['way']}, {row['how']}",
                _size(row["piece_bytes"]),
                str(row["count"]),
                f"{row['bytes_per_s'] / 1e9:.1f}",
                _verdict(row),
            ]
            for row in rows
            if "piece_bytes" in row
        ),
    )


def _size(count: int) -> str:
    return f"{count // PIECE_MIB} MiB" if count >= PIECE_MIB else f"{count // 1024} KiB"


def _overlaps(rows: list[Row]) -> list[str]:
    return _table(
        [
            "decode while swapping",
            "alone",
            "swapping",
            "slower by the copies' own traffic, at least",
            "samples, copies under way in",
            "goals",
        ],
        (
            [
                row["how"],
                f"{row['seconds_alone'] * 1e6:.1f} us",
                f"{row['seconds_busy'] * 1e6:.1f} us" if "seconds_busy" in row else "not run",
                f"{row['floor'] - 1:.1%}" if "floor" in row else "",
                f"{row['samples']}, {row['valid_samples']}",
                _verdict(row),
            ]
            for row in rows
            if row["section"] == "overlap"
        ),
    )


def _peers(rows: list[Row]) -> list[str]:
    ours = {row["row"]: row for row in rows if "set_bytes" in row}

    def line(row: Row) -> list[str]:
        if "seconds" not in row:
            return [row["peer"], row["row"], "not run", "", str(row.get("why", ""))]
        mine = ours.get(row["row"])
        ratio = f"{row['seconds'] / mine['seconds']:.2f}" if mine else ""
        return [row["peer"], row["row"], f"{row['seconds'] * 1e6:.1f} us", ratio, row["note"]]

    return _table(
        ["peer", "work", "time", "times ours", "note"],
        (line(row) for row in rows if row["section"] == "peer"),
    )


def markdown(report: Row) -> str:
    judged = report["figures"]
    machine, rows = judged["machine"], judged["rows"]
    lines = [
        f"# {report['device']}, {report['date']}",
        "",
        f"Commit {report['commit']}; CUDA {report['cuda']} in the driver; `{report['command']}`.",
    ]
    if machine:
        lines += [
            f"{machine['multiprocessors']} multiprocessors at {machine['clock_hz'] / 1e6:.0f} MHz "
            f"under load, {machine['l2_bytes'] >> 20} MiB of L2; "
            f"mma.sync in bf16: {machine['mma_operations_per_s'] / 1e12:.0f} TFLOP/s.",
        ]
    lines += ["Times are medians; limits were measured in this run.", "", "## Steps", ""]
    lines += _table(
        ["step", "verdict", "seconds", "detail"],
        (
            [step["name"], step["verdict"], f"{step['seconds']:.1f}", _one_line(step["detail"])]
            for step in report["steps"]
        ),
    )
    tables = [table(rows) for table in (_attention, _stores, _copies, _overlaps, _peers)]
    if any(tables):
        lines += ["## Figures", ""]
    for table in tables:
        lines += table
    return "\n".join(lines).rstrip() + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")[:400]


# ---- Files ---------------------------------------------------------------------------------------


def write(report: Row, folder: Path) -> Path:
    """Write both files under a name of their own, never over another; the path of the JSON one."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"[^a-z0-9]+", "-", report["device"].lower()).strip("-")
    stem = f"{report['date'][:10]}-{device}-{report['commit']}"
    for number in range(1, 1000):
        name = stem if number == 1 else f"{stem}-{number}"
        if (folder / f"{name}.md").exists():
            continue
        try:
            with (folder / f"{name}.json").open("x") as output:
                output.write(json.dumps(report, indent=1) + "\n")
        except FileExistsError:
            continue
        (folder / f"{name}.md").write_text(markdown(report))
        return folder / f"{name}.json"
    raise OSError(f"{folder} is full of reports of {stem}")
