"""Fine-tune universal interatomic potentials on DFT data of reactive interfaces, and tell how far to trust them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.calculators import calculator
    from finetune.models import load, save

__version__ = "0.1.0"
__all__ = ["calculator", "load", "save"]

_HOMES = {"calculator": "finetune.calculators", "load": "finetune.models", "save": "finetune.models"}


def __getattr__(name: str) -> Any:
    """Import torch only when something of this package is used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


if "FINETUNE_PERMISSIONS" in os.environ:  # in a process that a command has started
    from finetune.permissions import inherit

    inherit()
