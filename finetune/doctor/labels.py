"""Labels against an untouched foundation model: wrong signs, units and orders, which the labels alone do not show.

A foundation model is wrong by tens of per cent; the faults looked for here are wrong by their sign, by a factor of ten
and more, or have nothing in common with the structures. Per frame, c is the cosine between all label and all predicted
components, and q the ratio of their norms. CHGNet 0.3.0, 0.2.0 and r2scan have, on interfaces, crystals and disordered
mixtures of Li-P-S in PBE and on melts of 3000 K: median c of forces 0.85 to 0.94, lowest 0.54; median c of stress 0.86
to 0.95; median q 0.9 to 2.

Both mean something only where label and prediction exceed the error of the foundation model. On relaxed crystals its
forces are off by 0.1 to 0.4 eV/Å rms in some compounds, in any direction, while the labels are below 0.02. Such frames
are not compared; `not_compared` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch

from finetune import models
from finetune.doctor.agreement import (
    MIN_FAINT,
    MIN_FRAMES,
    Agreement,
    cosine_of,
    fisher_z,
    force_agreement,
    informative,
    needed_frames,
    rms_of,
    stress_agreement,
)
from finetune.doctor.stress_order import better_order
from finetune.doctor.units import (
    AGREE,
    ALIKE,
    ENERGIES,
    FACTOR,
    FORCES,
    SCATTER,
    STRESSES,
    Units,
    near_units,
    scatter_of,
    sign_and_unit,
)
from finetune.errors import InputError
from finetune.evaluation import Evaluation, evaluate
from finetune.references import compositions

UNRELATED = 0.3  # median c below which forces have nothing to do with the structures; shuffled ones have 0.0 ± 0.15
JUDGE = "chgnet"  # what the figures here were found with
STRANGER = 0.3  # c of a single frame below which its forces are not its own
OWN = 0.5  # c that frames with the right forces reach
BEYOND = 2.0  # size of forces over the median error of such frames from which a single frame is looked at
OUTSIDE = 2.5  # standard deviations of Fisher's transform of c below the median of such frames, the same
SINGLE = 8  # atoms of it: small crystals have few free coordinates, along which a model may be wrong in all
PER_ATOM = 1.4  # misfit as eV over misfit as eV/atom beyond which it is eV/atom; correct labels have 0.1 or less
MIN_ENERGY = 5e-3  # eV/atom rms beyond composition; less is within the error of a foundation model, as are
MIN_FORCE = 0.1  # eV/Å rms
MIN_STRESS = 2e-3  # eV/Å³ rms
FAINT = 2.0  # of these, in the prediction: from here on labels below them are suspect
STEADY = 0.7  # share of faint frames of one direction that makes it a unit
SPARE = 6  # frames beyond the number of independent compositions that an energy test needs
SHOWN = 5  # single frames that are told one by one


def check_labels(evaluation: Evaluation) -> list[str]:
    """Faults of labels that the comparison with a foundation model makes plain; empty where all is well.

    Files, or else families, are looked at one by one, since one of several sources may be at fault; a fault that all of
    them share is told once.

    Args:
        evaluation: of a pre-trained potential that has not seen these labels; random weights have nothing to say.
    """
    problems: list[str] = []
    for name, test in TESTS.items():
        found = _where(evaluation, test)
        problems += [f"{name} of {part}: {words}" for part, words in found.items()]
        if name == "forces" and not found:
            problems += _strangers(evaluation)
    return problems


def not_compared(evaluation: Evaluation) -> dict[str, str]:
    """Return why the sign and unit of labels cannot be seen, by property: they are below the foundation model's error.

    Sound data may be so: relaxed crystals, or crystals whose symmetry leaves no forces.
    """
    everything = np.arange(len(evaluation.frames))
    forces, stress = force_agreement(evaluation, everything), stress_agreement(evaluation, everything)
    words: dict[str, str] = {}
    for name, likeness, least, unit in (
        ("forces", forces, MIN_FORCE, "eV/Å"),
        ("stress", stress, MIN_STRESS, "eV/Å³"),
    ):
        count = len(informative(likeness, least))
        if len(likeness) and count < needed_frames(likeness):
            words[name] = (
                f"{name} not compared: label and prediction both exceed {least:g} {unit} rms in {count} of "
                f"{len(likeness)} frames, and {needed_frames(likeness)} are needed; {UNJUDGED[name]}"
            )
    return words


def check_stress(evaluation: Evaluation) -> list[str]:
    """Return faults of the stress labels alone, for a model that need not be a foundation model."""
    return [f"stress of {part}: {words}" for part, words in _where(evaluation, _stress_fault).items()]


def _where(evaluation: Evaluation, test: Test) -> dict[str, str]:
    """The parts of the data with a fault, and the fault in words; a structure that is there twice is one witness."""
    shared: dict[str, str] = {}
    hashes = [frame.structure_hash for frame in evaluation.frames]
    everything = np.sort(np.unique(hashes, return_index=True)[1])
    for kind in ("source", "family"):
        names = np.array([getattr(evaluation.frames[i], kind) for i in everything], dtype=object)
        parts = {name: everything[names == name] for name in sorted(set(names))}
        parts = {name: part for name, part in parts.items() if len(part) >= MIN_FRAMES}
        words = {name: fault for name, part in parts.items() if (fault := test(evaluation, part)) is not None}
        found = {f"{name}, {len(parts[name])} frames": fault for name, fault in words.items() if fault}
        if found and len(found) < len(words):
            return found
        shared = shared or found
    fault = test(evaluation, everything)
    return {f"all {len(everything)} frames": fault} if fault else shared


def _energy_fault(evaluation: Evaluation, part: np.ndarray) -> str | None:
    """Energies per atom instead of total ones, of the opposite sign or in another unit.

    What a linear function of the composition explains is taken out first, because codes differ in their energy zeros.
    """
    label, predicted = evaluation.labels.energy.numpy()[part], evaluation.predicted.energy.numpy()[part]
    known = np.isfinite(label) & np.isfinite(predicted)
    if not known.any():
        return None
    _, counts = compositions([evaluation.frames[i].atoms.numbers for i in part[known]])
    n = counts.sum(axis=1)
    x, y = counts / n[:, None], np.stack([label[known] / n, label[known], predicted[known] / n], axis=1)
    explained, _, rank, _ = np.linalg.lstsq(x, y, rcond=1e-8)
    total, each, model = (y - x @ explained).T
    if len(n) - rank < SPARE or rms_of(model) < MIN_ENERGY:
        return None
    gain = rms_of(total - model) / rms_of(each - model)
    if gain > PER_ATOM and n.min() > 1 and cosine_of(each, model) > AGREE:
        return f"they fit the foundation model {gain:.1f} times better as eV/atom than as eV; give total energies, eV"
    c, q = cosine_of(total, model), rms_of(total) / rms_of(model)
    return sign_and_unit(c, q, ENERGIES, "eV", "total energies, negative where bound")


def _forces_fault(evaluation: Evaluation, part: np.ndarray) -> str | None:
    """Forces of the opposite sign, in another unit, all zero, or of other atoms or frames."""
    everything = force_agreement(evaluation, part)
    likeness = informative(everything, MIN_FORCE)
    if fault := _faint_fault(everything, MIN_FORCE, FORCES, "eV/Å", "forces, not gradients"):
        return fault
    if len(likeness) < needed_frames(everything):
        return None
    c, q = float(np.median(likeness.c)), float(np.median(likeness.q))
    if abs(c) < AGREE and c < UNRELATED:
        return (
            f"they have nothing to do with the structures (cosine {c:.2f} with the foundation model, correct ones have "
            "0.8 or more); look whether they are of other frames or in another order of atoms"
        )
    return sign_and_unit(c, q, FORCES, "eV/Å", "forces, not gradients", scatter_of(likeness.q))


def _stress_fault(evaluation: Evaluation, part: np.ndarray) -> str | None:
    """Stress of the opposite sign, in another unit, or all zero.

    The median pressure is taken out on both sides, because that of a foundation model may be off by some GPa; frames
    under a higher one are compared as they are, since their differences are within its error.
    """
    everything = stress_agreement(evaluation, part)
    likeness = informative(everything, MIN_STRESS)
    if fault := _faint_fault(everything, MIN_STRESS, STRESSES, "eV/Å³", "positive under tension"):
        return fault
    if len(likeness) < needed_frames(everything):
        return None
    c, q = float(np.median(likeness.c)), float(np.median(likeness.q))
    unit = sign_and_unit(c, q, STRESSES, "eV/Å³", "positive under tension", scatter_of(likeness.q))
    label, predicted = (p.stress.numpy()[part] for p in (evaluation.labels, evaluation.predicted))
    fault = "; ".join(filter(None, [unit, better_order(label, predicted)]))
    volumes = np.array([evaluation.frames[i].atoms.get_volume() for i in likeness.frames])
    virial = q > FACTOR and 1 / 3 < np.median(likeness.q / volumes) < 3
    return f"{fault} (or these are virials: divide by minus the volume)" if fault and virial else fault


Test = Callable[[Evaluation, np.ndarray], str | None]  # a fault in words, empty without one; None: cannot be judged
TESTS: Mapping[str, Test] = MappingProxyType(
    {"energy": _energy_fault, "forces": _forces_fault, "stress": _stress_fault}
)
UNJUDGED: Mapping[str, str] = MappingProxyType(
    {
        "forces": "sign, unit and order of atoms cannot be judged by the model near equilibrium, where smaller units "
        "(Hartree/Bohr) look like relaxed structures too",
        "stress": "sign, unit and order of components cannot be judged by the model near equilibrium",
    }
)
UNKNOWN = "where the foundation model has something; leave out what is not known"


def _strangers(evaluation: Evaluation) -> list[str]:
    """Single frames whose forces are not their own: far below the others, with hardly any in between.

    Only frames whose forces are well above the error that the foundation model has in the others are looked at.
    """
    likeness = informative(force_agreement(evaluation, np.arange(len(evaluation.frames))), MIN_FORCE)
    own = likeness.c > OWN
    if own.sum() < 2 * MIN_FRAMES:
        return []
    usual, error = np.median(likeness.c[own]), np.median(likeness.error[own])
    z = fisher_z(likeness.c[own])
    limit = np.median(z) - OUTSIDE * 1.4826 * np.median(np.abs(z - np.median(z)))
    large = np.array([len(evaluation.frames[i].atoms) >= SINGLE for i in likeness.frames])
    opposite = (likeness.c < -AGREE) & (likeness.smaller > error)
    likeness = likeness[large & (opposite | (likeness.label > BEYOND * error))]
    alien = (likeness.c < STRANGER) & (fisher_z(likeness.c) < limit)
    between = ~alien & (likeness.c <= OWN)
    if not alien.any() or between.sum() > alien.sum() / 2:
        return []
    likeness = likeness[alien]
    likeness = likeness[np.isin(likeness.frames, _second_opinion(evaluation, likeness.frames))]
    problems = [
        f"forces of {evaluation.frames[i].where()}: they have nothing to do with the structure (cosine {c:.2f} with "
        f"the foundation model, other frames {usual:.2f}); look whether they are of another frame or in another order "
        "of atoms, label the frame again or drop it"
        for i, c in zip(likeness.frames, likeness.c, strict=True)
    ]
    more = len(problems) - SHOWN
    return [*problems[:SHOWN], f"forces of {more} other frames: the same"] if more > 0 else problems


def _second_opinion(evaluation: Evaluation, suspects: np.ndarray) -> np.ndarray:
    """Those of the frames whose forces are strange to `JUDGE` too: a small model may just not know a structure."""
    frames = [evaluation.frames[i] for i in suspects]
    labels = evaluation.labels.forces.split(evaluation.n_atoms.tolist())
    try:
        other = evaluate(models.load(JUDGE), frames, progress=False)
    except InputError:  # an element or a structure that it does not know
        return suspects
    forces = torch.cat([labels[i] for i in suspects])
    other = replace(other, labels=replace(other.labels, forces=forces))
    likeness = informative(force_agreement(other, np.arange(len(frames))), MIN_FORCE)
    return suspects[likeness.frames[likeness.c < STRANGER]]


def _faint_fault(likeness: Agreement, least: float, units: Units, wanted: str, meaning: str) -> str:
    """Words for labels that are 0, or in a much larger unit, where the prediction is beyond its error.

    Labels of relaxed structures are as small, but neither exactly 0 nor at one angle and ratio to the prediction.
    """
    suspect = likeness[(likeness.predicted > FAINT * least) & (likeness.label <= least)]
    if len(suspect) < max(MIN_FRAMES, len(informative(likeness, least))):
        return ""
    c, q = float(np.median(suspect.c)), float(np.median(suspect.q))
    if q == 0:
        return f"they are all 0, {UNKNOWN}"
    steady = (suspect.c * np.sign(c) > OWN) & (suspect.q > q / ALIKE) & (suspect.q < ALIKE * q)
    if len(suspect) < max(MIN_FAINT, needed_frames(likeness)) or steady.mean() < STEADY or q > 1 / FACTOR:
        return ""
    if scatter_of(suspect.q) > SCATTER or not near_units(q, units):
        return ""
    return sign_and_unit(c, q, units, wanted, meaning)
