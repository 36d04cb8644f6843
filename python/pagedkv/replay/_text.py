"""Text and token ids to blocks.

Without a model's tokenizer a token is a word with the space before it, a run of other signs
likewise, or one blank: "it's  so" is it|'|s| | so. Models' tokens are somewhat shorter. What two
texts have in common is cut alike in both, and that is all that matters here.

    block_tokens = 4     |it's |  so|      the last block may have fewer tokens, and is then another
                                           one than a full block that begins with the same tokens
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._values import unsigned
from ..errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

__all__ = ["Pieces"]

_WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s")


class Pieces:
    """Cuts prompts into blocks of `block_tokens` tokens and gives equal ones the same number.

    Raises InvalidArgument for no tokens in a block, and for a tokenizer that cannot be loaded.
    """

    def __init__(self, block_tokens: int, tokenizer: str | Path | None) -> None:
        self._tokens = unsigned("block_tokens", block_tokens)
        if self._tokens == 0:
            raise InvalidArgument("block_tokens: expected 1 or more, got 0")
        self._tokenizer = None if tokenizer is None else _load(Path(tokenizer))
        self._numbers: dict[Hashable, int] = {}

    def cut(self, prompt: str | list[int]) -> list[int]:
        """The numbers of a prompt's blocks."""
        if isinstance(prompt, str) and self._tokenizer is not None:
            prompt = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        is_text = isinstance(prompt, str)
        tokens: Sequence[Any] = _WORD.findall(prompt) if isinstance(prompt, str) else prompt
        numbers = self._numbers
        blocks = (tokens[i : i + self._tokens] for i in range(0, len(tokens), self._tokens))
        names = ("".join(block) if is_text else tuple(block) for block in blocks)
        return [numbers.setdefault(name, len(numbers)) for name in names]

    def unit(self, prompt: str | list[int]) -> str:
        """What its blocks are made of."""
        is_word = isinstance(prompt, str) and self._tokenizer is None
        return f"{self._tokens} {'words' if is_word else 'tokens'}"


def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as problem:
        raise InvalidArgument("tokenizer: needs the tokenizers package") from problem
    if path.is_dir():
        path /= "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as problem:  # tokenizers raises bare Exception
        raise InvalidArgument(f"tokenizer: {path}: cannot be loaded ({problem})") from problem
