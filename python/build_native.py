"""Generate the C source of pagedkv._native: build_native.py COMPILER HEADER OUTPUT.

The declarations come from the public header and are never copied by hand. The preprocessor reads it
with PKV_CDEF defined, which leaves out what cffi does not parse; constants that are macros are
taken by name and get their values from the compiler.
"""

import subprocess
import sys

import cffi

# Functions of Python that the library may call.
CALLBACKS = """
extern "Python" uint32_t pkv_python_choose(void* ctx, const pkv_candidate* candidates,
                                           uint32_t offered, uint32_t count, uint32_t* victims);
"""

MACROS = ("PKV_VERSION_MAJOR", "PKV_VERSION_MINOR", "PKV_VERSION_PATCH", "PKV_VERSION")


def declarations(compiler: str, header: str) -> str:
    command = [compiler, "-E", "-P", "-DPKV_CDEF", header]
    preprocessed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return preprocessed + CALLBACKS + "".join(f"#define {macro} ...\n" for macro in MACROS)


def main(compiler: str, header: str, output: str) -> None:
    ffi = cffi.FFI()
    ffi.cdef(declarations(compiler, header))
    ffi.set_source("pagedkv._native", "#include <pagedkv.h>", py_limited_api=True)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
