"""Fixtures of this folder; lets its tests import the helpers beside them (tiny, sound, ...)."""

import sys
from pathlib import Path

import pytest
from pagedkv.engine import Model, load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))

from tiny import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small random model of the Llama family."""
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder)
    return Model(load_checkpoint(folder))


@pytest.fixture(scope="module")
def window_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One with a sliding window of 20 tokens."""
    folder = tmp_path_factory.mktemp("window")
    family = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    write_checkpoint(folder, **family, sliding_window=20)
    return Model(load_checkpoint(folder))
