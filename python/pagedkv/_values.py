"""Checks of plain values before they reach C, so that the message can name the argument."""

from __future__ import annotations

import math
import operator
from typing import SupportsFloat, SupportsIndex

from .errors import InvalidArgument

__all__ = ["finite", "positive", "unsigned"]


def unsigned(name: str, value: SupportsIndex, bits: int = 32) -> int:
    """`value` as an int that fits `bits` bits unsigned."""
    try:
        number = operator.index(value)
    except TypeError:
        kind = type(value).__name__
        raise InvalidArgument(f"{name}: expected an integer, got {kind}") from None
    if not 0 <= number < 1 << bits:
        raise InvalidArgument(f"{name}: expected 0 to 2^{bits} - 1, got {number}")
    return number


def finite(name: str, value: SupportsFloat) -> float:
    """`value` as a float that is neither NaN nor infinite."""
    if not isinstance(value, SupportsFloat):  # float() also reads text
        raise InvalidArgument(f"{name}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise InvalidArgument(f"{name}: expected a finite number, got a larger one") from None
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise InvalidArgument(f"{name}: expected a number, got {kind}") from None
    if not math.isfinite(number):
        raise InvalidArgument(f"{name}: expected a finite number, got {number}")
    return number


def positive(name: str, value: SupportsFloat) -> float:
    """`value` as a finite float above zero."""
    number = finite(name, value)
    if number <= 0:
        raise InvalidArgument(f"{name}: expected more than 0, got {number}")
    return number
