"""Text in and out, and the tokenizer of another model."""

import json
from pathlib import Path

import numpy as np
import pytest
from pagedkv.engine import Tokenizer, TokenizerError
from tiny import write_tokenizer

pytest.importorskip("tokenizers", reason="text needs the tokenizers package")


def test_round_trip(tmp_path: Path) -> None:
    vocab = write_tokenizer(tmp_path)
    tokenizer = Tokenizer(tmp_path, vocab)
    tokens = tokenizer.encode("Grüße, world")
    assert tokens.dtype == np.uint32
    assert tokenizer.decode(tokens.tolist()) == "Grüße, world"
    assert len(tokenizer.encode("")) == 0


def test_ids_beyond_the_model_are_refused_with_both_numbers(tmp_path: Path) -> None:
    vocab = write_tokenizer(tmp_path)
    Tokenizer(tmp_path, vocab + 100)
    with pytest.raises(TokenizerError, match=f"go up to {vocab - 1}.* has only {vocab - 1}"):
        Tokenizer(tmp_path, vocab - 1)


def test_added_tokens_count(tmp_path: Path) -> None:
    vocab = write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    token = {"id": vocab, "content": "<end>", "special": True, "single_word": False}
    content["added_tokens"] = [{**token, "lstrip": False, "rstrip": False, "normalized": False}]
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=f"go up to {vocab},"):
        Tokenizer(tmp_path, vocab)


def test_missing_and_broken(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
        Tokenizer(tmp_path, 10)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be loaded"):
        Tokenizer(tmp_path, 10)
