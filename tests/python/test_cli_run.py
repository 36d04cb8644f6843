"""`pagedkv run` and `pagedkv info` as commands: output, exit codes, and every kind of bad input."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pagedkv.cli import blas, main
from pagedkv.cli.progress import ProgressBar, Rate
from pagedkv.cli.prompts import Prompt, read_prompts
from pagedkv.engine import RequestError

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from tiny import write_checkpoint, write_tensors, write_tokenizer

pytest.importorskip("tokenizers", reason="text prompts need the tokenizers package")

PREAMBLE = "All of these prompts open with the same sentence, which is long. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level model of 256 tokens with its tokenizer, and prompts."""
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, vocab_size=256)
    write_tokenizer(folder)
    lines = [PREAMBLE + f"Number {index}" for index in range(6)]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; returns exit code, stdout, stderr."""

    def command(*arguments: Any, prompts: Path = folder / "prompts.txt") -> tuple[int, str, str]:
        common = ["run", "--model", folder, "--prompts", prompts, "--max-tokens", 8]
        try:
            code = main([str(argument) for argument in [*common, *arguments]])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


Run = Callable[..., tuple[int, str, str]]


# ---- The command


def test_table_and_check(run: Run) -> None:
    code, out, err = run("--check")
    assert code == 0, err
    assert re.search(r"^equal: 6/6$", out, re.M)
    rows = dict(re.findall(r"^([A-Za-z][A-Za-z ]*?)  +(.+)$", out, re.M))
    assert rows["requests"] == "6 (6 samples)"
    assert "48 generated" in rows["tokens"]
    for name in ("throughput", "TTFT", "TPOT", "peak pages", "contiguous reservation"):
        assert name in rows
    assert int(rows["prefix tokens reused"]) == 5 * 64
    assert rows["forks"] == "0"
    assert "6/6" in err


def test_json(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, out, _ = run("--json", file, "--samples", 2, "--temperature", 1, "--check", "--show", 3)
    assert code == 0
    assert out.count("[=>]") == 3
    content = json.loads(file.read_text())
    assert content["summary"]["forks"] == 6
    assert content["summary"]["cow_copies"] > 0
    assert content["check"] == {"samples": 12, "equal": 12, "different": []}
    assert content["settings"]["blocks"] == 160
    assert content["settings"]["model"] == str(folder)
    assert len(content["completions"]) == 12
    assert all(len(done["tokens"]) == 8 for done in content["completions"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_beams(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    options = ("--beam", 8, "--samples", 3, "--length-penalty", 0.5, "--early-stopping", "never")
    code, _, _ = run("--json", file, *options, "--check")
    assert code == 0
    content = json.loads(file.read_text())
    assert content["check"] == {"samples": 18, "equal": 18, "different": []}
    assert content["summary"]["forks"] >= 6 * 7
    scores = [done["score"] for done in content["completions"]]
    assert all(scores[i : i + 3] == sorted(scores[i : i + 3], reverse=True) for i in (0, 3, 15))
    assert len({tuple(done["tokens"]) for done in content["completions"]}) == 18


def test_a_prompt_that_asks_for_beams(run: Run, tmp_path: Path) -> None:
    """One search among ordinary prompts; a temperature of its own it may not have."""
    file = tmp_path / "p.jsonl"
    lines = [{"prompt": "one"}, {"prompt": "two", "beam": 4, "samples": 2}, {"prompt": "three"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("--prompts", file, "--check")
    assert code == 0
    assert re.search(r"^equal: 4/4$", out, re.M)
    file.write_text(json.dumps({"prompt": "two", "beam": 4, "temperature": 0.5}))
    code, _, err = run("--prompts", file)
    assert code == 2
    assert "temperature must be 0 with beams" in err
    assert run("--prompts", file, "--beam", 2)[0] == 0


def test_the_default_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The shipped model and prompts, with short outputs: requests wait, and paging pays."""
    file = tmp_path / "out.json"
    assert main(["run", "--check", "--max-tokens", "6", "--json", str(file)]) == 0
    assert re.search(r"^equal: (\d+)/\1$", capsys.readouterr().out, re.M)
    summary = json.loads(file.read_text())["summary"]
    assert summary["requests"] >= 64
    assert summary["blocks_peak"] <= summary["blocks_total"]
    assert summary["blocks_reserved_peak"] > 1.5 * summary["blocks_peak"]
    assert summary["prefix_tokens_reused"] > summary["prompt_tokens"] / 2


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_kv_dtypes(run: Run, dtype: str) -> None:
    assert run("--kv-dtype", dtype, "--check", "--threads", 2)[0] == 0


def test_a_difference_is_shown_and_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paged path is told to read other values than were computed: some token must differ."""
    import pagedkv

    honest = pagedkv.Step.write

    def crooked(self: Any, layer: int, k: Any, v: Any) -> None:
        honest(self, layer, k, np.roll(v, 1, axis=2))

    monkeypatch.setattr(pagedkv.Step, "write", crooked)
    code, out, _ = run("--check")
    assert code == 1
    equal = re.search(r"^equal: (\d)/6$", out, re.M)
    assert equal
    assert int(equal[1]) < 6
    for part in ("first difference: request", "before", "paged ", "contiguous logit"):
        assert part in out


def test_jsonl(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    lines = [
        {"prompt": "one", "id": "a", "group": "x", "max_tokens": 3},
        {"prompt": "two\nlines", "samples": 2, "temperature": 0.5, "top_p": 0.9, "seed": 4},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert run("--json", tmp_path / "o.json", prompts=file)[0] == 0
    done = json.loads((tmp_path / "o.json").read_text())["completions"]
    assert [(one["id"], one["sample"], len(one["tokens"])) for one in done] == [
        ("a", 0, 8),
        ("2", 0, 8),
        ("2", 1, 8),
    ]
    prompts = read_prompts(file)
    assert prompts[0] == Prompt(f"{file}:1", "a", "one", "x", {"max_tokens": 3})
    assert prompts[1].options["samples"] == 2


def test_failure_while_serving(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKV_FAULTS", "device.attend=return(EIO)")
    code, out, err = run()
    assert code == 1
    assert out == ""
    assert err.startswith("pagedkv run: failed:")


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "pagedkv"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"pagedkv \d+\.\d+\.\d+\n", done.stdout)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name in ("version", "instruction set", "devices", "fault points"):
        assert re.search(rf"^{name} +\S", out, re.M), name
    monkeypatch.setenv("PKV_FAULTS", "device.*=off")
    assert main(["info", "--faults"]) == 0
    out = capsys.readouterr().out
    assert "device.*=off" in out
    opened = re.search(r"^device\.open +(\d+) +(\d+) ", out, re.M)
    assert opened
    assert opened[2] == "0"


# ---- Bad input: exit code 2, one message that names the culprit, nothing on stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blocks", 0], "--blocks: 0 must be at least 1"),
        (["--blocks", 2**31], "--blocks: 2147483648 must be .* below 2\\^31"),
        (["--blocks", "many"], "--blocks: invalid whole number value: 'many'"),
        (["--blocks", 2**30], "blocks"),
        (["--blocks", 3], "request 1: prompt of 73 .* needs 5 blocks of 16 tokens, the pool has 3"),
        (["--block-tokens", 0], "--block-tokens: 0 must be at least 1"),
        (["--block-tokens", 3], "block_tokens"),
        (["--batch", 0], "--batch: 0"),
        (["--batch", 64, "--step-tokens", 63], "step_tokens 63 must be at least the batch, 64"),
        (["--step-tokens", 0], "--step-tokens: 0"),
        (["--max-tokens", 0], "--max-tokens: 0"),
        (["--max-tokens", -1], "--max-tokens: -1"),
        (["--max-tokens", 1000], "exceeds the model's 512"),
        (["--max-tokens", 2**31 - 1], "exceeds the model's 512"),
        (["--samples", 0], "--samples: 0"),
        (["--beam", 33], "request 1: beams 33 must be from samples, 1, to the batch, 32"),
        (["--beam", 2, "--length-penalty", "nan"], "length_penalty nan must be a finite number"),
        (["--samples", 33], "request 1: samples 33 must be 1 to the batch, 32"),
        (["--temperature", -1], "temperature -1.0 must be"),
        (["--temperature", "nan"], "temperature nan must be"),
        (["--top-p", 0], "top_p 0.0"),
        (["--top-k", -5], "top_k -5"),
        (["--seed", -5], "seed -5"),
        (["--kv-dtype", "int1"], "--kv-dtype: invalid type: 'int1'"),
        (["--kv-dtype", "i8/i4/i4"], "--kv-dtype: invalid type: 'i8/i4/i4'"),
        (["--threads", 100000], "threads"),
        (["--device", "cuda"], "cuda"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder/x.json: its folder does not exist"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_options(run: Run, arguments: list[Any], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert re.match("pagedkv( run)?: ", err.strip().splitlines()[-1])


BAD_PROMPTS = {
    "empty file": (b"", ":1: the prompt is empty"),
    "empty line": (b"one\n\nthree\n", ":2: the prompt is empty"),
    "not UTF-8": (b"one\ntw\xffo\n", ":2: is not UTF-8"),
    "broken JSON": (b'{"prompt": "a"}\n{"prompt": \n', ":2: is not JSON"),
    "text after JSON": (b'{"prompt": "a"}\nhello\n', ":2: is not JSON"),
    "no object": (b'{"prompt": "a"}\n[1]\n', ":2: is not a JSON object"),
    "blank JSON line": (b'{"prompt": "a"}\n\n', ":2: is not JSON"),
    "no prompt": (b'{"id": "a"}', ":1: the prompt is missing"),
    "empty prompt": (b'{"prompt": ""}', ":1: the prompt is empty"),
    "prompt type": (b'{"prompt": 3}', ":1: prompt must be a string"),
    "zero": (b'{"prompt": "a", "max_tokens": 0}', ":1: max_tokens must be a whole number >= 1"),
    "float": (b'{"prompt": "a", "max_tokens": 1.5}', ":1: max_tokens must be a whole number"),
    "bool": (b'{"prompt": "a", "samples": true}', ":1: samples must be a whole number"),
    "top_k": (b'{"prompt": "a", "top_k": 0.5}', ":1: top_k must be a number"),
    "top_p": (b'{"prompt": "a", "top_p": 2}', ":1: top_p 2 must be above 0"),
    "unknown": (b'{"prompt": "a", "max_token": 3}', ":1: field 'max_token' is unknown"),
    "twins": (b'{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', ":2: id 'x' was used at"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts(run: Run, tmp_path: Path, case: str) -> None:
    content, message = BAD_PROMPTS[case]
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    code, out, err = run(prompts=file)
    assert (code, out) == (2, "")
    assert f"{file}{message}" in err


def test_text_keeps_what_is_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("a\x0cb\u2028c\r\n  d \n".encode())
    assert [prompt.text for prompt in read_prompts(file)] == ["a\x0cb\u2028c", "  d "]
    with pytest.raises(RequestError, match="cannot be read"):
        read_prompts(tmp_path)


def test_missing_and_wrong_files(run: Run, folder: Path, tmp_path: Path) -> None:
    def refused(message: str, *arguments: Any, **options: Any) -> None:
        code, out, err = run(*arguments, **options)
        assert (code, out) == (2, "")
        assert message in err

    refused("none.txt: cannot be read", prompts=tmp_path / "none.txt")
    refused("none: no such folder", "--model", tmp_path / "none")
    weights = write_checkpoint(tmp_path, vocab_size=256)
    refused("tokenizer.json: no such file", "--model", tmp_path)
    write_checkpoint(tmp_path, vocab_size=100)
    write_tokenizer(tmp_path)
    refused("token ids go up to 255, but the model has only 100", "--model", tmp_path)
    write_checkpoint(tmp_path, vocab_size=256)
    del weights["model.norm.weight"]
    write_tensors(tmp_path / "model.safetensors", weights)
    refused("tensor model.norm.weight is missing", "--model", tmp_path)


# ---- Parts


def test_progress_on_a_terminal_and_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    # The clock is read once at the start and once for every update: at 0, 2, 4, 6 and 8 seconds.
    for stream, expected in ((Terminal(), 5), (io.StringIO(), 2)):
        with ProgressBar("serve", 4, stream, iter([0.0, 0.0, 2.0, 4.0, 6.0, 8.0]).__next__) as bar:
            for done in range(5):
                bar.update(done, "99 tok/s")
        text = stream.getvalue()
        assert text.count("serve [") == expected
        assert "[####################] 4/4   99 tok/s" in text
        assert ("\r" in text) == stream.isatty()
        assert text.endswith("\n")


@pytest.mark.parametrize("how", ["ngram:2,4", "ngram-tree:2,4,2"])
def test_speculation_changes_no_token(run: Run, tmp_path: Path, how: str) -> None:
    texts = []
    for options in ([], ["--speculate", how]):
        code, out, err = run("--max-tokens", 40, "--check", "--json", tmp_path / "out", *options)
        assert code == 0, err
        found = json.loads((tmp_path / "out").read_text())
        texts.append([done["tokens"] for done in found["completions"]])
    assert texts[0] == texts[1]
    assert re.search(r"^speculation  +[1-9]\d* of \d+ guesses right", out, re.M)
    assert found["summary"]["guessed_right"] > 0
    assert found["settings"]["speculate"] == how


def test_speculation_that_is_none(run: Run) -> None:
    code, _, err = run("--speculate", "oracle")
    assert code == 2
    assert "speculate: expected ngram[:N,K]" in err


def test_rate_forgets() -> None:
    rate = Rate(span_s=2.0)
    assert rate.update(0.0, 0) == 0.0
    assert rate.update(1.0, 100) == 100.0
    for second in range(2, 10):
        speed = rate.update(float(second), 100 + 10 * (second - 1))
    assert speed == 10.0


def test_blas_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in blas.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert all(name.isalnum() for name in blas.kernels())
    monkeypatch.setattr(blas, "MAPS", tmp_path / "none")
    assert not blas.limit_threads(1)
    assert blas.kernels() == set()
    (tmp_path / "maps").write_text(
        "7f00-7f01 r-xp 00000000 08:01 1234 /nowhere/libopenblas broken.so\n"
        "7f02-7f03 r-xp 00000000 00:00 0\n"
        "7f04-7f05 r-xp 00000000 00:00 0 [vdso]\n"
    )
    monkeypatch.setattr(blas, "MAPS", tmp_path / "maps")
    assert blas._loaded_libraries() == {"/nowhere/libopenblas broken.so"}
    assert not blas.limit_threads(1)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert not blas.limit_threads(1)


def test_the_environment_is_left_alone(run: Run) -> None:
    before = dict(os.environ)
    assert run()[0] == 0
    assert dict(os.environ) == before
