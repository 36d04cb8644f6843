"""Generate the C source of pagedkv._native: build_native.py COMPILER HEADER OUTPUT.

The declarations come from the public header and are never copied by hand. The preprocessor reads it
with PKV_CDEF defined, which leaves out what cffi does not parse; constants that are macros are
taken by name and get their values from the compiler.
"""

import subprocess
import sys

import cffi

_PARAMETERS = """(void* ctx, const pkv_candidate* candidates,
    uint32_t offered, uint32_t count, uint32_t* victims)"""

# pkv_python_choose is an eviction hook that asks Python. An interrupt must not be set before Python
# has returned, or it would be raised there and go no further.
CALLBACKS = f"""
#define PKV_PYTHON_INTERRUPTED ...
uint32_t pkv_python_choose{_PARAMETERS};
extern "Python" uint32_t pkv_python_name{_PARAMETERS};
"""

SOURCE = f"""
#include <pagedkv.h>

#define PKV_PYTHON_INTERRUPTED UINT32_MAX

static uint32_t pkv_python_name{_PARAMETERS};

static uint32_t pkv_python_choose{_PARAMETERS} {{
    const uint32_t named = pkv_python_name(ctx, candidates, offered, count, victims);
    if (named != PKV_PYTHON_INTERRUPTED) return named;
    PyErr_SetInterrupt();
    return 0;
}}
"""

MACROS = ("PKV_VERSION_MAJOR", "PKV_VERSION_MINOR", "PKV_VERSION_PATCH", "PKV_VERSION")


def declarations(compiler: str, header: str) -> str:
    command = [compiler, "-E", "-P", "-DPKV_CDEF", header]
    preprocessed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return preprocessed + CALLBACKS + "".join(f"#define {macro} ...\n" for macro in MACROS)


def main(compiler: str, header: str, output: str) -> None:
    ffi = cffi.FFI()
    ffi.cdef(declarations(compiler, header))
    ffi.set_source("pagedkv._native", SOURCE, py_limited_api=True)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
