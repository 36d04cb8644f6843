"""The tools of the gate find what they are there to find."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for folder in (TOOLS / "abi", TOOLS):
        monkeypatch.syspath_prepend(folder)
    yield
    for name in ("abi", "dev", "environment", "layers", "sizes"):
        sys.modules.pop(name, None)


def tool(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A tree in which every include is allowed."""
    for path, text in {
        "include/pagedkv.h": "#include <stdint.h>\n",
        "runtime/base/mem.c": '#include "pagedkv.h"\n#include <string.h>\n',
        "runtime/core/pool.c": '#include "base/mem.h"\n#include "core/pool.h"\n',
        "examples/first.c": '#include <stdio.h>\n#include "pagedkv.h"\n',
        "python/build.py": "#include <pagedkv.h>\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def violations(root: Path) -> list[str]:
    layers = tool("layers")
    return [*layers.runtime_violations(root), *layers.outside_violations(root)]


def test_layers_accept_a_good_tree(house: Path) -> None:
    assert violations(house) == []
    assert violations(TOOLS.parent) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("runtime/base/mem.c", '#include "core/pool.h"', "of a layer above base"),
        ("runtime/core/pool.c", '# include "api/api.h"', "of a layer above core"),
        ("runtime/core/pool.c", '#include "pool.h"', "names no layer"),
        ("runtime/extra/new.c", "", "lies in none of the layers"),
        ("runtime/core/pool.c", '#include "device/cuda/cells.h"', "plugin.h is for others"),
        ("runtime/device/cuda/a.cuh", '#include "core/pool.h"', "of a layer above device"),
        ("examples/first.c", '#include "base/mem.h"', "only pagedkv.h is public"),
        ("python/build.py", '#include "core/pool.h"', "only pagedkv.h is public"),
        ("include/pagedkv.h", "#include <stdio.h>", "include/pagedkv.h: includes stdio.h"),
    ],
)
def test_layers_find_a_violation(house: Path, path: str, text: str, complaint: str) -> None:
    (house / path).parent.mkdir(parents=True, exist_ok=True)
    (house / path).write_text(text + "\n")
    [found] = violations(house)
    assert found.startswith(path)
    assert complaint in found


def test_sizes_count_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tool("sizes")
    monkeypatch.setattr(sizes, "ROOT", tmp_path)
    source = tmp_path / "pool.c"
    source.write_text(
        "int declared(int a);\n"
        "static int one(int a) {\n    return a;\n}\n"
        "struct pkv_seq* two(void* ctx,\n                 int b) {\n" + "    b++;\n" * 80 + "}\n"
        "int table[] = {\n    1,\n};\n"
    )
    functions = [(f.where.split()[-1], f.lines) for f in sizes.c_functions(source)]
    assert functions == [("one", 2), ("two", 81)]


def test_abi_agrees_with_the_golden_file() -> None:
    command = [sys.executable, TOOLS / "abi" / "abi.py"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("symbol pkv_attend", "symbol pkv_look"),
        ("constant PKV_EBUSY = -3", "constant PKV_EBUSY = -4"),
        ("8 dtype: uint32_t", "4 dtype: uint32_t"),
    ],
)
def test_abi_finds_a_difference(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
) -> None:
    abi = tool("abi")
    golden = abi.GOLDEN.read_text()
    assert old in golden
    changed = tmp_path / "pagedkv.abi"
    changed.write_text(golden.replace(old, new))
    monkeypatch.setattr(abi, "GOLDEN", changed)
    assert abi.main([]) == 1
    assert f"+{old}" in capsys.readouterr().out.replace("+    ", "+").replace("   8", "8")
    assert abi.main(["--write"]) == 0
    assert abi.main([]) == 0


def test_counts_of_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        "<testcase name='a'/><testcase name='b'/>"
        "<testcase name='c'><failure/></testcase><testcase name='d'><error/></testcase>"
        "<testcase name='e'><skipped message='there is no cargo'/></testcase>"
        "<testcase name='f'><system-out>ok a\nok b\n7 passed, 0 failed\n</system-out></testcase>"
        "<testcase name='g'><failure/><system-out>3 passed, 2 failed</system-out></testcase>"
        "<testcase name='h'><failure/><system-out>4 passed, 0 failed</system-out></testcase>"
        "</testsuite></testsuites>"
    )
    result = tool("dev").junit(report)
    assert (result.passed, result.failed, result.skipped) == (16, 5, 1)
    assert result.notes == ["not run: there is no cargo"]


def test_a_failed_stage_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = tool("dev")
    monkeypatch.setattr(dev, "LOGS", tmp_path)
    monkeypatch.setattr(dev.environment, "ensure", lambda *extras: None)
    stages = [
        dev.Stage("good", "passes", lambda job: dev.Result(passed=2), True),
        dev.Stage("bad", "fails", lambda job: dev.Result(failed=1, notes=["why"]), True),
        dev.Stage("slow", "is left out", lambda job: dev.Result(passed=5), False),
    ]
    monkeypatch.setattr(dev, "STAGES", stages)
    assert dev.test(["--fast"]) == 1
    output = capsys.readouterr().out
    assert "why" in output
    assert output.splitlines()[-1] == "2 passed, 1 failed, 0 skipped"
    assert dev.test(["good"]) == 0
    assert dev.test(["--fast", "slow"]) == 0


def test_a_run_of_nothing_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = tool("dev")
    monkeypatch.setattr(dev, "LOGS", tmp_path)
    monkeypatch.setattr(dev.environment, "ensure", lambda *extras: None)
    skips = dev.Stage("none", "skips", lambda job: dev.Result(skipped=1), True)
    monkeypatch.setattr(dev, "STAGES", [skips])
    assert dev.test([]) == 1


def test_digest_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tool("environment")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    for folder in ("include", "python/__pycache__", "runtime"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("CMakeLists.txt", "pyproject.toml", "README.md", "runtime/pool.c"):
        (tmp_path / name).write_text("one")
    first = environment._digest()
    (tmp_path / "python/__pycache__/x.pyc").write_text("two")
    assert environment._digest() == first
    (tmp_path / "runtime/pool.c").write_text("two")
    assert environment._digest() != first
