"""Programs in C, C++ and Rust that know nothing but the installed library."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.c"))
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")

pytestmark = pytest.mark.slow

Run = Callable[..., str]
Need = Callable[[str], None]
Flags = Callable[..., list[str]]


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    assert {"first", "fork", "prefix", "out_of_blocks"} <= names


def test_everything_is_installed(prefix: Path) -> None:
    for path in (
        "include/pagedkv.h",
        "lib/libpagedkv.a",
        "lib/libpagedkv.so",
        "lib/pkgconfig/pagedkv.pc",
        "lib/cmake/pagedkv/pagedkvConfig.cmake",
        "lib/cmake/pagedkv/pagedkvConfigVersion.cmake",
        "lib/cmake/pagedkv/pagedkvTargets.cmake",
    ):
        assert (prefix / path).is_file(), path
    installed = (prefix / "include/pagedkv.h").read_bytes()
    assert installed == (ROOT / "include/pagedkv.h").read_bytes()


def test_version_is_in_the_soname_and_the_package(
    run: Run, prefix: Path, pkg_config: Flags
) -> None:
    header = (prefix / "include/pagedkv.h").read_text()
    major, minor, patch = (
        header.split(f"PKV_VERSION_{part} ")[1].split()[0] for part in ("MAJOR", "MINOR", "PATCH")
    )
    assert pkg_config("--modversion") == [f"{major}.{minor}.{patch}"]
    dynamic = run("readelf", "-d", prefix / "lib/libpagedkv.so")
    assert f"[libpagedkv.so.{major}.{minor}]" in dynamic


def test_needs_nothing_but_the_c_library(run: Run, prefix: Path) -> None:
    dynamic = run("readelf", "-d", prefix / "lib/libpagedkv.so").splitlines()
    needed = {line.split("[")[1].rstrip("]") for line in dynamic if "(NEEDED)" in line}
    assert {name.split(".")[0] for name in needed} <= {
        "libc",
        "libm",
        "libpthread",
        "ld-linux-x86-64",
    }


def symbols(run: Run, prefix: Path) -> set[str]:
    lines = run("nm", "-D", "--defined-only", prefix / "lib/libpagedkv.so").splitlines()
    return {line.split()[2] for line in lines}


def test_only_the_interface_is_exported(run: Run, prefix: Path) -> None:
    exported = symbols(run, prefix)
    preprocessed = run("cc", "-E", "-P", prefix / "include/pagedkv.h")
    declared = {
        word.split("(")[0].lstrip("*")
        for word in preprocessed.split()
        if word.lstrip("*").startswith("pkv_") and "(" in word
    }
    assert len(exported) > 30
    assert exported == declared


def test_static_library_defines_no_foreign_names(run: Run, prefix: Path) -> None:
    """Programs that link the static library share one space of names with it."""
    lines = run("nm", "-g", "--defined-only", prefix / "lib/libpagedkv.a").splitlines()
    names = {line.split()[2] for line in lines if len(line.split()) == 3}
    assert {name for name in names if not name.startswith(("pkv_", "pkvi_"))} == set()


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda path: path.stem)
def test_example_by_pkg_config(
    run: Run, prefix: Path, pkg_config: Flags, source: Path, tmp_path: Path
) -> None:
    program = tmp_path / source.stem
    flags = pkg_config("--cflags", "--libs")
    rpath = f"-Wl,-rpath,{prefix / 'lib'}"
    run("cc", "-std=c11", *WARNINGS, source, "-o", program, *flags, "-lm", rpath)
    assert run(program)


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda path: path.stem)
def test_example_by_cmake_package(run: Run, prefix: Path, source: Path, tmp_path: Path) -> None:
    """Shared and static; both must print the same."""
    run(
        *("cmake", "-S", HERE / "cmake", "-B", tmp_path, "-G", "Ninja"),
        *(f"-DCMAKE_PREFIX_PATH={prefix}", f"-DSOURCE={source}"),
    )
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "shared")
    assert run(tmp_path / "static")
    assert "libpagedkv" in run("readelf", "-d", tmp_path / "shared")
    assert "libpagedkv" not in run("readelf", "-d", tmp_path / "static")


def test_cmake_package_refuses_another_minor_version(prefix: Path, tmp_path: Path) -> None:
    project = (HERE / "cmake" / "CMakeLists.txt").read_text()
    (tmp_path / "CMakeLists.txt").write_text(project.replace("pagedkv 0.1", "pagedkv 0.99"))
    command = ["cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode
    assert "0.99" in finished.stderr


def test_cpp_program(run: Run, need: Need, prefix: Path, pkg_config: Flags, tmp_path: Path) -> None:
    need("c++")
    program = tmp_path / "first"
    flags = pkg_config("--cflags", "--libs")
    rpath = f"-Wl,-rpath,{prefix / 'lib'}"
    run("c++", "-std=c++17", *WARNINGS, HERE / "cpp/first.cpp", "-o", program, *flags, rpath)
    assert run(program) == "21 tokens\n"


def test_rust_program(
    run: Run, need: Need, prefix: Path, pkg_config: Flags, tmp_path: Path
) -> None:
    need("cargo")
    assert pkg_config("--exists") == []
    output = run(
        *("cargo", "run", "--quiet", "--offline", "--locked", "--target-dir", tmp_path),
        cwd=HERE / "rust",
        PKG_CONFIG_PATH=str(prefix / "lib/pkgconfig"),
    )
    assert output.splitlines()[-1] == "39 tokens found again"


def test_library_without_fault_points(run: Run, tmp_path: Path) -> None:
    """PKV_FAULTS=OFF: no point can be armed, and its functions say so."""
    options = ("-G", "Ninja", "-DPKV_FAULTS=OFF", "-DPKV_WERROR=ON", "-DPKV_CUDA=OFF")
    run("cmake", "-S", ROOT, "-B", tmp_path, *options)
    run("cmake", "--build", tmp_path)
    library = tmp_path / "runtime/libpagedkv.a"
    source = tmp_path / "faults.c"
    source.write_text(
        "#include <pagedkv.h>\n"
        "int main(void) {\n"
        "    pkv_config config;\n"
        "    pkv_cache* cache;\n"
        "    if (pkv_config_init(&config, PKV_VERSION)) return 1;\n"
        "    config.groups[0].layers = config.groups[0].kv_heads = 1;\n"
        "    config.groups[0].key_dim = 16;\n"
        "    config.blocks = 1;\n"
        "    if (pkv_cache_create(&config, &cache)) return 2;\n"
        '    const int status = pkv_faults_set(cache, "seq.create=return(EIO)", 0);\n'
        "    pkv_cache_destroy(cache);\n"
        "    return status == PKV_ENOTSUP ? 0 : 3;\n"
        "}\n"
    )
    program = tmp_path / "faults"
    run("cc", f"-I{ROOT / 'include'}", source, library, "-o", program, "-lm", "-pthread")
    run(program)
