"""What the engine refuses, and how it says so.

    EngineError(ValueError)      the base of all below; the message names the culprit
      +- CheckpointError         config.json or a weight file is not what this engine can run
      +- TokenizerError          tokenizer.json is missing, broken or of another model
      +- RequestError            a prompt or its options cannot be served, now or ever

All are raised before anything is touched: no cache exists yet, or the request is not queued.
Errors of the cache itself are `pagedkv.Error` and pass through unchanged.
"""

from __future__ import annotations


class EngineError(ValueError):
    """Bad input to the engine. The message names what was wrong and where."""


class CheckpointError(EngineError):
    """A checkpoint folder cannot be run: the message names the file and the field or tensor."""


class TokenizerError(EngineError):
    """A tokenizer cannot be used with this model."""


class RequestError(EngineError):
    """A request can never be served: the message names the request and the limit it breaks."""
