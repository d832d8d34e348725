"""Settings of an atomic cluster expansion that mean something, and those that do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ase.data import atomic_numbers

from finetune.backbones._ace_radial import RADIALS, Core
from finetune.errors import InputError, unknown, unknown_element


def check_settings(
    cutoff: float,
    functions: int | None,
    radial: str,
    decay: float,
    exponents: Sequence[float],
    core: Mapping[str, float] | None,
    dtype: str,
) -> None:
    """Refuse settings that mean nothing."""
    if radial not in RADIALS:
        raise unknown("radial basis", radial, RADIALS)
    if dtype not in ("float64", "float32"):
        raise unknown("dtype", dtype, ("float64", "float32"))
    for name in core or {}:
        if name not in Core.__dataclass_fields__:
            raise unknown("setting of the core repulsion", name, Core.__dataclass_fields__)
    if not (math.isfinite(cutoff) and cutoff > 0 and math.isfinite(decay) and decay > 0):
        raise InputError(f"cutoff {cutoff} Å and decay {decay} must be numbers above 0")
    if functions is not None and functions < 1:
        raise InputError(f"{functions} functions make no potential; give 1 or more, or null for all")
    if not exponents or exponents[0] != 1 or any(not 0 < m <= 2 for m in exponents):
        raise InputError(f"exponents {list(exponents)}: the first must be 1 (linear), the others above 0 and up to 2")


def numbers_of(elements: Sequence[str]) -> list[int]:
    """Atomic numbers of chemical symbols, each once."""
    strange = [symbol for symbol in elements if not atomic_numbers.get(symbol)]
    if strange:
        raise unknown_element(strange[0])
    if not elements or len(set(elements)) < len(elements):
        raise InputError(f"elements {list(elements)} must name each element once")
    return [atomic_numbers[symbol] for symbol in elements]
