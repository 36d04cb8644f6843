"""A small inference engine over the paged cache: Llama-family checkpoints in NumPy (CuPy on a GPU).

checkpoint, config, tensorfile, tokenizer   a Hugging Face folder, read and validated
model, linear, rope, sampling               from tokens to logits to the next token
request, scheduler, policy, runner          continuous batching over `pagedkv.Cache`
beam, beamgroup                             beam search, and its beams in the scheduler
speculate                                   guesses at the next tokens, as chains or trees
contiguous, rounding, check                 the reference without pages, and the comparison
metrics, errors, arrays                     figures, refusals, numpy or cupy

checkpoint = load_checkpoint("folder")
model = Model(checkpoint)
with cache_for(model.config, blocks=256) as cache:
    tokens = Tokenizer("folder", model.config.vocab).encode("Once upon a time")
    completions = Engine(model, cache).run([Request("a", tokens, max_tokens=64)])
"""

from .beam import BeamParams, BeamSearch, Hypothesis
from .check import Difference, first_difference, search_again
from .checkpoint import Checkpoint, load_checkpoint
from .config import ModelConfig
from .contiguous import ContiguousCache, generate_alone, search_alone
from .errors import CheckpointError, EngineError, RequestError, TokenizerError
from .metrics import Distribution, Progress, Summary, Totals, summarise
from .model import Model
from .policy import ArrivalOrder, Policy
from .request import Completion, Request
from .rounding import KV_DTYPES, round_to
from .runner import Engine, cache_for, default_dtype
from .sampling import Sampler, SamplingParams
from .scheduler import Scheduler
from .speculate import SpeculateParams, parse_speculate
from .tokenizer import Tokenizer

__all__ = [
    "KV_DTYPES",
    "ArrivalOrder",
    "BeamParams",
    "BeamSearch",
    "Checkpoint",
    "CheckpointError",
    "Completion",
    "ContiguousCache",
    "Difference",
    "Distribution",
    "Engine",
    "EngineError",
    "Hypothesis",
    "Model",
    "ModelConfig",
    "Policy",
    "Progress",
    "Request",
    "RequestError",
    "Sampler",
    "SamplingParams",
    "Scheduler",
    "SpeculateParams",
    "Summary",
    "Tokenizer",
    "TokenizerError",
    "Totals",
    "cache_for",
    "default_dtype",
    "first_difference",
    "generate_alone",
    "load_checkpoint",
    "parse_speculate",
    "round_to",
    "search_again",
    "search_alone",
    "summarise",
]
