"""Text to token ids and back, through the `tokenizers` package and a checkpoint's
`tokenizer.json`.

Must hold: every id that the tokenizer can produce is a row of the model's embedding. A tokenizer
of another model usually breaks this, and is refused with both numbers before any text is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import TokenizerError

FILE_NAME = "tokenizer.json"


class Tokenizer:
    """The tokenizer of one checkpoint folder.

    Raises TokenizerError when the file is missing or broken, when `tokenizers` is not installed, or
    when its ids exceed `vocab`, the rows of the model's embedding.
    """

    def __init__(self, folder: str | Path, vocab: int) -> None:
        path = Path(folder) / FILE_NAME
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise TokenizerError("text prompts need the tokenizers package") from error
        if not path.is_file():
            raise TokenizerError(f"{path}: no such file")
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(f"{path}: cannot be loaded: {error}") from error
        highest = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= vocab:
            raise TokenizerError(
                f"{path}: token ids go up to {highest}, but the model has only {vocab}"
                " (vocab_size): the tokenizer belongs to another model"
            )

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Token ids [T], with the special tokens that the tokenizer itself adds (such as BOS)."""
        return np.array(self._backend.encode(text).ids, np.uint32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens left out."""
        text: str = self._backend.decode([int(token) for token in tokens])
        return text
