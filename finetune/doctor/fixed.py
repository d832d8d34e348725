"""Atoms that were held fixed when the labels were written."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.constrained import REMEDY, constrained
from finetune.data.frames import Frame
from finetune.doctor.findings import Finding, some


def fixed_atoms(frames: Sequence[Frame]) -> Finding:
    """Atoms whose label forces are exactly zero in all frames while the sum of all forces is not."""
    check = "fixed atoms"
    if not any("forces" in frame.given for frame in frames):
        return Finding(check, "skipped", "no frame has forces")
    found = constrained(frames)
    if not found:
        return Finding(check, "good", "no atom has forces of exactly 0 that symmetry does not explain")
    return Finding(check, "warning", some(map(str, found)), REMEDY)
