"""One zero of energy for potentials that were fitted to different ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.adapting import Shifted
from finetune.errors import InputError
from finetune.potential import Potential
from finetune.references import fit_references
from finetune.uncertainty.frames import Labelled, predictions


def aligned(members: Sequence[Potential], frames: Sequence[Labelled], batch_edges: int = 8000) -> list[Shifted]:
    """Members of a committee with one energy shift per element each, which brings them to the zero of the labels.

    Members of different kinds, or tuned from foundation models with different zeros, differ by energies per element
    that mean nothing; a committee of them would take these for uncertainty. Forces and stress stay what they are. Where
    the compositions of the frames leave a shift undetermined, the smallest that fits is taken (least squares).

    Args:
        members: potentials of any kind.
        frames: labelled frames.
        batch_edges: edges that are evaluated together.

    Raises:
        InputError: no frame has an energy.
    """
    energy = np.array([float(frame.labels.energy) for frame in frames])
    if not np.isfinite(energy).any():
        raise InputError("no frame has an energy to bring the members to; give labelled ones")
    numbers = [frame.atoms.numbers for frame in frames]
    found = []
    for member in members:
        said = predictions(member, frames, batch_edges).energy.double().numpy()
        shifted = Shifted(member, fit_references(numbers, energy - said).energies)
        found.append(shifted.train(member.training))
    return found
