"""pagedkv: an embeddable paged KV cache.

    import pagedkv

    with pagedkv.Cache(layers=2, kv_heads=2, head_dim=64, blocks=1024) as cache:
        seq = cache.sequence()
        reused = seq.match(prompt[:-1])               # tokens that another sequence has computed
        with cache.step([(seq, prompt[reused:])]) as step:
            for layer in range(cache.layers):
                step.write(layer, k, v)               # [tokens, kv_heads, head_dim]
                out = step.attend(layer, q)           # [tokens, heads, head_dim]

See help(pagedkv.Cache), help(pagedkv.Step) and help(pagedkv.errors). The engine that runs whole
models on top of it is pagedkv.engine; the C library underneath is described in get_include() +
"/pagedkv.h".
"""

from . import errors
from ._arena import Arena
from ._cache import Cache
from ._capture import Capture
from ._config import sizes, why_absent
from ._eviction import EVICTION_POLICIES
from ._faults import fault_points, faults
from ._ffi import lib as _lib
from ._install import get_include, get_library
from ._pin import Pin
from ._sequence import DEFAULT_PRIORITY, NO_BLOCK, Match, Sequence
from ._stats import ArenaStats, FaultPoint, Report, Sizes, Stats, TraceEvent
from ._step import Step
from ._tenant import TenantInfo
from ._tokens import UnknownTokens
from ._transfer import Transfer
from .errors import (
    Away,
    Busy,
    Corrupt,
    DeviceFailed,
    DeviceIOError,
    DeviceTimeout,
    Error,
    FaultSpecError,
    InvalidArgument,
    NonFinite,
    NotSupported,
    OutOfBlocks,
    OutOfHostBlocks,
    OutOfLeaves,
    OutOfMemory,
    OutOfRange,
    OutOfSequences,
    QuotaError,
    StaleHandle,
    TooBig,
    VersionMismatch,
)

__version__: str = f"{_lib.PKV_VERSION_MAJOR}.{_lib.PKV_VERSION_MINOR}.{_lib.PKV_VERSION_PATCH}"

__all__ = [
    "DEFAULT_PRIORITY",
    "EVICTION_POLICIES",
    "NO_BLOCK",
    "Arena",
    "ArenaStats",
    "Away",
    "Busy",
    "Cache",
    "Capture",
    "Corrupt",
    "DeviceFailed",
    "DeviceIOError",
    "DeviceTimeout",
    "Error",
    "FaultPoint",
    "FaultSpecError",
    "InvalidArgument",
    "Match",
    "NonFinite",
    "NotSupported",
    "OutOfBlocks",
    "OutOfHostBlocks",
    "OutOfLeaves",
    "OutOfMemory",
    "OutOfRange",
    "OutOfSequences",
    "Pin",
    "QuotaError",
    "Report",
    "Sequence",
    "Sizes",
    "StaleHandle",
    "Stats",
    "Step",
    "TenantInfo",
    "TooBig",
    "TraceEvent",
    "Transfer",
    "UnknownTokens",
    "VersionMismatch",
    "errors",
    "fault_points",
    "faults",
    "get_include",
    "get_library",
    "sizes",
    "why_absent",
]
