"""What the package exports, and that what is written down twice agrees."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pagedkv
import pytest
from pagedkv import _config, _ffi, errors


def test_all_is_exact_and_sorted() -> None:
    public = [
        name
        for name, value in vars(pagedkv).items()
        if not name.startswith("_") and (not inspect.ismodule(value) or name == "errors")
    ]
    assert sorted(public) == sorted(pagedkv.__all__)
    upper = [name for name in pagedkv.__all__ if name.isupper()]
    camel = [name for name in pagedkv.__all__ if name not in upper and not name.islower()]
    lower = [name for name in pagedkv.__all__ if name.islower()]
    assert pagedkv.__all__ == sorted(upper) + sorted(camel) + sorted(lower)


def test_all_of_every_module_names_what_exists() -> None:
    for module in (_config, _ffi, errors):
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_status_has_an_exception() -> None:
    statuses = _ffi.ffi.typeof("enum pkv_status").elements
    assert len(statuses) > 10
    for status, name in statuses.items():
        if status == 0:
            continue
        cls = errors.CLASSES[status]
        assert issubclass(cls, pagedkv.Error)
        assert (cls.status, f"PKV_{cls.status_name}") == (status, name)
        assert getattr(pagedkv, cls.__name__) is cls
        with pytest.raises(cls, match="^somewhere: "):
            _ffi.check(status, "somewhere")


def test_status_without_a_class() -> None:
    with pytest.raises(pagedkv.Error, match="-999, which is no status"):
        _ffi.check(-999, "somewhere")


def test_stub_of_errors_agrees_with_the_generated_classes() -> None:
    stub = ast.parse(Path(errors.__file__).with_suffix(".pyi").read_text())
    declared = {
        node.name: [ast.unparse(base) for base in node.bases]
        for node in stub.body
        if isinstance(node, ast.ClassDef) and node.name != "Error"
    }
    generated = {
        cls.__name__: [base.__name__ for base in cls.__bases__] for cls in errors.CLASSES.values()
    }
    assert declared == generated


def test_docstring_of_errors_names_every_class() -> None:
    assert errors.__doc__ is not None
    for cls in errors.CLASSES.values():
        assert f" {cls.__name__} " in errors.__doc__
        assert f" {cls.status_name} " in errors.__doc__


def test_stats_has_every_field_of_the_struct() -> None:
    struct = [name for name, _ in _ffi.ffi.typeof("pkv_stats").fields]
    assert ["struct_size", *(field.name for field in fields(pagedkv.Stats))] == struct


def test_tenant_info_has_every_field_of_the_struct() -> None:
    struct = [name for name, _ in _ffi.ffi.typeof("pkv_tenant_info").fields]
    struct[struct.index("borrow_off")] = "borrow"
    assert [field.name for field in fields(pagedkv.TenantInfo)] == struct


def test_arena_stats_has_every_field_of_the_struct() -> None:
    struct = [name for name, _ in _ffi.ffi.typeof("pkv_arena_stats").fields]
    assert ["struct_size", *(field.name for field in fields(pagedkv.ArenaStats))] == struct


def test_every_field_of_the_config_has_a_keyword() -> None:
    config = {name for name, _ in _ffi.ffi.typeof("pkv_config").fields}
    group = {name for name, _ in _ffi.ffi.typeof("pkv_group_config").fields}
    keywords = set(inspect.signature(pagedkv.Cache).parameters)
    assert keywords - {"dtype"} == set(_config.CacheOptions.__annotations__) - {"dtype"}
    reached = set(_config._GROUP_FIELDS.values()) | set(_config._CONFIG_FIELDS.values())
    assert "stream" in keywords  # set when the cache is there
    reached |= {"seed", "fault_seed", "device", "isa", "faults", "prefix_off", "k_dtype", "v_dtype"}
    reached |= {"allocator", "arena", "cow", "cow_whole", "eviction", "eviction_hook"}
    # Set by the library, fixed in this version, or of no use from Python.
    others = {"struct_size", "version", "group_count", "groups", "memory", "parallel"}
    assert config | group == reached | others


def test_version_is_that_of_the_header() -> None:
    header = Path(pagedkv.get_include(), "pagedkv.h").read_text()
    major, minor, patch = (
        int(header.split(f"PKV_VERSION_{part} ")[1].split()[0])
        for part in ("MAJOR", "MINOR", "PATCH")
    )
    assert pagedkv.__version__ == f"{major}.{minor}.{patch}"
    assert _ffi.lib.pkv_version() == major << 16 | minor << 8 | patch


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        PKV_VERSION = 0x000100

        @staticmethod
        def pkv_version() -> int:
            return 0x000200

    monkeypatch.setattr(_ffi, "lib", Other)
    with pytest.raises(ImportError, match="compiled for libpagedkv 0x000100"):
        _ffi._check_version()


def test_library_and_header_are_beside_the_package() -> None:
    assert Path(pagedkv.get_library()).is_file()
    assert Path(pagedkv.get_include(), "pagedkv.h").is_file()
    assert Path(pagedkv.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize(
    "cls", [pagedkv.Arena, pagedkv.Cache, pagedkv.Sequence, pagedkv.Step, pagedkv.Stats]
)
def test_everything_public_is_documented(cls: type) -> None:
    assert cls.__doc__
    for name, member in vars(cls).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert member.__doc__, f"{cls.__name__}.{name}"


def test_help_states_shapes_units_and_errors() -> None:
    text = inspect.getdoc(pagedkv.Step.attend) or ""
    assert "[step.tokens, heads, head_dim]" in text
    assert "Raises InvalidArgument" in text
    assert "Microseconds" in (inspect.getdoc(pagedkv.Cache.clock_us) or "")
