"""What the files hold: usable frames, labels and their keys, units as far as labels alone tell, DFT settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from finetune.data.checking import MAX_STRESS, NET_FORCE, intensive_energy_ratio, problems, rounded
from finetune.data.frames import PROPERTIES, Frame, isolated_message
from finetune.data.labels import GRADIENT, VIRIALS, LabelKeys, hint, unread
from finetune.data.zeros import zero_forces, zero_stresses
from finetune.doctor.findings import Finding, Verdict, some
from finetune.errors import InputError

STORED = "stored results of ASE"
LEFT_OVER = 0.5  # eV/Å, norm of the sum of all forces that is beyond the noise of a DFT code
NEEDED = ("energy", "forces", "stress")
WHY = {
    "energy": "without energies neither the reference energies nor differences between phases can be learnt",
    "forces": "without forces many more frames are needed",
    "stress": "without stress nothing is learnt of pressure and density",
}


def unusable(frames: Sequence[Frame], labelled: bool = True) -> tuple[list[Frame], list[Finding]]:
    """The frames that can be used, and what is wrong with the others.

    Raises:
        InputError: not a single frame can be used.
    """
    wrong = {i: list(problems(frame, labelled)) for i, frame in enumerate(frames)}
    good = [frame for i, frame in enumerate(frames) if not wrong[i]]
    words = [f"{frames[i].where()} {text}" for i, texts in wrong.items() for text in texts]
    if not words:
        return good, [Finding("frames", "good", f"all {len(frames)} frames can be used")]
    text = f"{len(frames) - len(good)} of {len(frames)} frames cannot be used: " + "; ".join(words[:3])
    more = f"; and {len(words) - 3} more problems" if len(words) > 3 else ""
    if not good:
        raise InputError(f"{text}{more}; no frame is left to look at")
    return good, [Finding("frames", "fault", text + more, "mend or drop these frames; the checks below leave them out")]


def isolated(atoms: Sequence[Frame], others: Sequence[Frame]) -> list[Finding]:
    """Isolated atoms among the frames, and cells of one atom that may be such.

    Raises:
        InputError: there are no other frames.
    """
    findings = []
    if atoms:
        use = "training and the checks below; they serve as atom energies for cohesive energies (finetune compare)"
        words = isolated_message(atoms, use)
        if not others:
            raise InputError(f"{words}; no frame of several atoms is left to examine")
        findings.append(Finding("isolated atoms", "good", words))
    doubtful = [frame for frame in others if frame.perhaps_isolated]
    if doubtful:
        named = (f"{frame.where()}, {frame.atoms.symbols} {frame.nearest_image:.1f} Å apart" for frame in doubtful)
        words = f"{len(doubtful)} cells of one atom are large for a crystal and small for a free atom: {some(named)}"
        remedy = "set config_type=IsolatedAtom where it is a free atom, whose energy would distort reference energies"
        findings.append(Finding("isolated atoms", "warning", words, remedy))
    return findings


def label_keys(frames: Sequence[Frame], keys: LabelKeys) -> list[Finding]:
    """Which labels there are, under which keys, and in how many frames."""
    findings = []
    for name in (name for name in PROPERTIES if name in NEEDED):
        places = Counter(_place(frame, name, keys) for frame in frames if name in frame.given)
        count = sum(places.values())
        where = ", ".join(f"{place} in {n}" for place, n in places.most_common())
        if count == len(frames):
            findings.append(Finding(f"{name} labels", "good", f"{where} of {len(frames)} frames"))
        elif count:
            lacking = some(frame.where() for frame in frames if name not in frame.given)
            words = f"{where} of {len(frames)} frames; none in {lacking}"
            remedy = "these frames count only with what they have; label them if that was not meant"
            findings.append(Finding(f"{name} labels", "warning", words, remedy))
        else:
            words, remedy = _elsewhere(frames, name)
            findings.append(Finding(f"{name} labels", "warning", words, f"{remedy}; {WHY[name]}"))
    return findings


def _elsewhere(frames: Sequence[Frame], name: str) -> tuple[str, str]:
    """Words and remedy for a label that no frame has, with the key of the files that looks like it."""
    near: Counter[tuple[str, str]] = Counter()
    for frame in frames:
        found = unread(frame.atoms)
        for kind in (name, {"stress": VIRIALS, "forces": GRADIENT}.get(name, name)):
            if kind in found:
                near[kind, found[kind]] += 1
                break
    if not near:
        return "in no frame", f"add them, or name their key with --keys.{name}"
    (kind, key), count = near.most_common(1)[0]
    if kind == GRADIENT:
        words = f"in no frame under the keys that are read; {count} of {len(frames)} frames have {key}, a gradient"
        return words, hint(kind, key)
    meaning = " (stress = -virial / volume)" if kind == VIRIALS else ""
    words = f"in no frame under the keys that are read; {count} of {len(frames)} frames have {key}"
    return words, f"if these are the {kind}, give {hint(kind, key)}{meaning}"


def plain_units(frames: Sequence[Frame]) -> list[Finding]:
    """Units that the labels alone give away: energies that do not grow with the atoms, stresses beyond 160 GPa."""
    findings = []
    ratio = intensive_energy_ratio(frames)
    if ratio < 0.5:
        words = f"energies do not grow with the number of atoms: they fit {1 / ratio:.1f} times better as eV/atom"
        findings.append(Finding("energy unit", "fault", words, "give the total energy of each structure, eV"))
    stresses = [np.abs(frame.labels.stress.numpy()).max() for frame in frames if "stress" in frame.given]
    if stresses and np.median(stresses) > MAX_STRESS:
        words = f"half of the stresses exceed {np.median(stresses):.3g} eV/Å³, {160.2 * np.median(stresses):.0f} GPa"
        remedy = (
            "multiply GPa by 0.0062415, kbar by 0.00062415, bar by 6.2415e-7, and mind the sign: positive under tension"
        )
        findings.append(Finding("stress unit", "fault", words, remedy))
    for name, words in (("stress", zero_stresses(frames)), ("forces", zero_forces(frames))):
        if words:
            findings.append(Finding(f"{name} labels", "warning", *words.split(". ", 1)))
    findings += [Finding("digits of labels", "warning", *words.split(". ", 1)) for words in rounded(frames)]
    return findings + _net_forces(frames)


def settings(frames: Sequence[Frame]) -> list[Finding]:
    """Whether all frames say that they were labelled by one method, where `label_method` and `label_code` stand."""
    findings = []
    for key, what in (("label_method", "DFT settings"), ("label_code", "versions of the DFT code")):
        values = Counter(str(frame.atoms.info[key]) for frame in frames if key in frame.atoms.info)
        told = sum(values.values())
        counts = some(f"{value} in {n} frames" for value, n in values.most_common())
        if len(values) > 1:
            verdict: Verdict = "fault" if key == "label_method" else "warning"
            remedy = "label all frames with one method; energies of two methods have different zeros"
            words = f"{len(values)} {what} are mixed: {counts}"
            findings.append(Finding("DFT settings", verdict, words, remedy))
        elif values and told < len(frames):
            words = f"{counts}, {len(frames) - told} frames do not say by which {what} they were labelled"
            findings.append(Finding("DFT settings", "warning", words, "make sure that it is the same for all"))
        elif values:
            findings.append(Finding("DFT settings", "good", f"one for all frames: {key} {next(iter(values))}"))
    words = "no frame says by which method it was labelled (label_method in info)"
    return findings or [Finding("DFT settings", "skipped", words)]


def _net_forces(frames: Sequence[Frame]) -> list[Finding]:
    """Forces that do not add up to zero, as those of every isolated or periodic system do."""
    known = [frame for frame in frames if "forces" in frame.given and len(frame.atoms) > 1]
    if not known:
        return []
    sums = np.array([np.linalg.norm(frame.labels.forces.sum(dim=0)) for frame in known])
    totals = np.array([np.linalg.norm(frame.labels.forces, axis=1).sum() for frame in known])
    bad = np.flatnonzero((sums > LEFT_OVER) & (sums > NET_FORCE * totals))
    if not len(bad):
        return [Finding("net force", "good", f"at most {sums.max():.2g} eV/Å is left over in the sum of all forces")]
    words = f"forces of {len(bad)} frames do not add up to zero ({some(known[i].where() for i in bad)}; "
    words += f"{sums[bad].max():.2f} eV/Å left over)"
    remedy = "look whether they are complete, without constraints, and of the right frame"
    return [Finding("net force", "warning", words, remedy)]


def _place(frame: Frame, name: str, keys: LabelKeys) -> str:
    """The key that a label stands under; that of the user first."""
    key = asdict(keys)[name]
    if key in frame.atoms.info or key in frame.atoms.arrays:
        return key
    virials = name == "stress" and keys.virials in frame.atoms.info
    return f"{keys.virials} (virials)" if virials else STORED
