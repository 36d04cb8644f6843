"""Exceptions, generated when the package is imported from the status table of the library.

Error                          every exception of the library; .status and .status_name say which
 |- InvalidArgument            EINVAL      also ValueError and TypeError
 |- StaleHandle                ESTALE      also ReferenceError
 |- Busy                       EBUSY       also RuntimeError
 |- OutOfMemory                ENOMEM      also MemoryError
 |- OutOfBlocks                ENOBLOCKS   also MemoryError: fits later, or after others end
 |- TooBig                     ETOOBIG     also ValueError: can never fit
 |- OutOfSequences             ENOSEQS     also MemoryError
 |- OutOfLeaves                ENOLEAVES   also MemoryError
 |- OutOfRange                 ERANGE      also IndexError
 |- NotSupported               ENOTSUP     also NotImplementedError
 |- VersionMismatch            EVERSION    also ImportError
 |- DeviceIOError              EIO         also OSError
 |- DeviceTimeout              ETIMEDOUT   also TimeoutError
 |- NonFinite                  ENONFINITE  also ValueError
 |- FaultSpecError             EFAULTSPEC  also ValueError
 |- Corrupt                    ECORRUPT    also RuntimeError
 |- DeviceFailed               EDEVICE     also RuntimeError
 |- Away                       EAWAY       also RuntimeError
 |- OutOfHostBlocks            ENOHOST     also MemoryError: fits later, or after others come back
 |- QuotaError                 EQUOTA      also MemoryError: fits after others of its tenant end

A call that raises has changed nothing; the few exceptions to that rule stand where they apply.
"""

from __future__ import annotations

from ._native import ffi, lib


class Error(Exception):
    """Base of every exception of the library.

    status        the negative number that the C function returned
    status_name   its name without prefix, for example "ENOBLOCKS"
    """

    status: int = 0
    status_name: str = ""


# The Python name of a status and the built-in exceptions that it also is. A status that a newer
# library adds and that is not listed here still gets a class: Error alone, named after the status.
_NAMES: dict[str, tuple[str, tuple[type[Exception], ...]]] = {
    "EINVAL": ("InvalidArgument", (ValueError, TypeError)),
    "ESTALE": ("StaleHandle", (ReferenceError,)),
    "EBUSY": ("Busy", (RuntimeError,)),
    "ENOMEM": ("OutOfMemory", (MemoryError,)),
    "ENOBLOCKS": ("OutOfBlocks", (MemoryError,)),
    "ETOOBIG": ("TooBig", (ValueError,)),
    "ENOSEQS": ("OutOfSequences", (MemoryError,)),
    "ENOLEAVES": ("OutOfLeaves", (MemoryError,)),
    "ERANGE": ("OutOfRange", (IndexError,)),
    "ENOTSUP": ("NotSupported", (NotImplementedError,)),
    "EVERSION": ("VersionMismatch", (ImportError,)),
    "EIO": ("DeviceIOError", (OSError,)),
    "ETIMEDOUT": ("DeviceTimeout", (TimeoutError,)),
    "ENONFINITE": ("NonFinite", (ValueError,)),
    "EFAULTSPEC": ("FaultSpecError", (ValueError,)),
    "ECORRUPT": ("Corrupt", (RuntimeError,)),
    "EDEVICE": ("DeviceFailed", (RuntimeError,)),
    "EAWAY": ("Away", (RuntimeError,)),
    "ENOHOST": ("OutOfHostBlocks", (MemoryError,)),
    "EQUOTA": ("QuotaError", (MemoryError,)),
}


def _message(status: int) -> str:
    message: str = ffi.string(lib.pkv_status_message(status)).decode()
    return message


def _make_classes() -> dict[int, type[Error]]:
    """One class for each status but PKV_OK, also put into this module under its name."""
    classes = {}
    for status, constant in ffi.typeof("enum pkv_status").elements.items():
        if status == lib.PKV_OK:
            continue
        status_name = constant.removeprefix("PKV_")
        name, also = _NAMES.get(status_name, (status_name.title(), ()))
        body = {
            "status": status,
            "status_name": status_name,
            "__doc__": f"{status_name}: {_message(status)}.",
            "__module__": __name__,
        }
        classes[status] = globals()[name] = type(name, (Error, *also), body)
    return classes


CLASSES = _make_classes()
__all__ = sorted(["CLASSES", "Error", "error", *(cls.__name__ for cls in CLASSES.values())])


def error(status: int, what: str) -> Error:
    """The exception of `status` about `what`, ready to be raised."""
    cls = CLASSES.get(status)
    if cls is None:
        return Error(f"{what}: the library returned {status}, which is no status")
    return cls(f"{what}: {_message(status)}")
