"""Sampling: the right tokens with the right frequency, reproducibly."""

import numpy as np
import pytest
from pagedkv.engine import RequestError, Sampler, SamplingParams

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15])).astype(np.float32)
DRAWS = 20000


def frequencies(**params: float) -> np.ndarray:
    sampler = Sampler(SamplingParams(**{"temperature": 1.0, **params}))  # type: ignore[arg-type]
    return np.bincount([sampler(LOGITS) for _ in range(DRAWS)], minlength=5) / DRAWS


def test_greedy_takes_the_first_of_equals() -> None:
    sampler = Sampler(SamplingParams())
    assert sampler(LOGITS) == 1
    assert sampler(np.zeros(7, np.float32)) == 0


def test_temperature() -> None:
    np.testing.assert_allclose(frequencies(), np.exp(LOGITS), atol=0.015)
    sharp = np.exp(LOGITS / 0.5)
    np.testing.assert_allclose(frequencies(temperature=0.5), sharp / sharp.sum(), atol=0.015)


def test_top_k() -> None:
    expected = np.array([0, 0.4, 0, 0.3, 0]) / 0.7
    np.testing.assert_allclose(frequencies(top_k=2), expected, atol=0.015)
    np.testing.assert_array_equal(frequencies(top_k=1), [0, 1, 0, 0, 0])
    np.testing.assert_allclose(frequencies(top_k=99), np.exp(LOGITS), atol=0.015)


def test_top_p_keeps_the_token_that_crosses() -> None:
    np.testing.assert_array_equal(frequencies(top_p=0.39), [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(frequencies(top_p=1e-9), [0, 1, 0, 0, 0])
    expected = np.array([0, 0.4, 0, 0.3, 0]) / 0.7
    np.testing.assert_allclose(frequencies(top_p=0.69), expected, atol=0.015)
    wider = np.array([0, 0.4, 0, 0.3, 0.15]) / 0.85
    np.testing.assert_allclose(frequencies(top_p=0.71), wider, atol=0.015)


def test_rounding_errors_rarely_change_the_choice() -> None:
    """2,000 nearly equal tokens, logits off by 1e-3: a lookup in their cumulative sum would choose
    another neighbour most of the time."""
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 0.1, 2000)
    params = SamplingParams(temperature=1.0, top_p=0.95)
    one, other = Sampler(params), Sampler(params)
    changed = sum(
        one(logits) != other(logits + 1e-3 * generator.standard_normal(2000)) for _ in range(1000)
    )
    assert changed < 10


def test_seeds_belong_to_request_and_sample() -> None:
    def draws(seed: int, request: int, sample: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), request, sample)
        return [sampler(LOGITS) for _ in range(40)]

    assert draws(1, 2, 3) == draws(1, 2, 3)
    different = {tuple(draws(*key)) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}
    assert len(different) == 4


def test_extreme_logits() -> None:
    sampler = Sampler(SamplingParams(temperature=0.01, top_p=0.9))
    assert sampler(np.array([-1e30, 1e30, 0], np.float32)) == 1
    for bad in (np.nan, np.inf):
        with pytest.raises(FloatingPointError, match="NaN or infinite"):
            sampler(np.array([0, bad], np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0), ("temperature", float("nan")), ("temperature", float("inf")),
        ("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("top_p", float("nan")), ("seed", -1),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: value})  # type: ignore[arg-type]
