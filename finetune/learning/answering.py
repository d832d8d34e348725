"""What DFT answers: labels of the frames that a generation asks for, and that all labels are of one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from ase import Atoms

from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.labelling.core import Folders, Labeller, Method, Waiting
from finetune.labelling.run import GIVEN_UP, Report, collect_folders, write_folders
from finetune.labelling.run import label as label_frames
from finetune.labelling.run import report as labels_of
from finetune.labelling.store import Store, identity, without_labels
from finetune.learning.refitting import GENERATION

FEW = 2  # frames that fail, all that were asked for, before it is taken for a fault of the settings
SHOWN = 3  # reasons in a message
UNSAID, VERSION = "unsaid", "another version"  # in place of the hash of a method


def check_labels(parts: Mapping[str, Sequence[Frame]], labeller: Method) -> str | None:
    """A line for the user where it is not certain that the frames are of the labeller's method; None where it is.

    Raises:
        InputError: a part says that it was labelled by another method, or some frames say it and others do not; no
            validation frame has forces.
    """
    if not any("forces" in frame.given for frame in parts["valid"]):
        raise InputError("no validation frame has forces, by which a campaign is judged; give others")
    own = labeller.method_hash()
    found = {name: {_method(frame, labeller) for frame in part} for name, part in parts.items()}
    everything = set[str]().union(*found.values())
    if everything == {UNSAID}:
        return (
            f"the frames do not say how they were labelled; that they are of the labeller's method ({own}) is up to "
            "you: energies of two methods differ by electronvolts"
        )
    others = {name: sorted(methods - {own, VERSION}) for name, methods in found.items() if methods - {own, VERSION}}
    if others:
        told = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in others.items())
        raise InputError(
            f"labels of two methods do not mix: the labeller's is {own}, but not that of {told}. Give train, valid "
            "and test frames of the labeller's method, or say relabel: true, and it labels them first; frames whose "
            f"`label_method` is set to {own} are taken at their word"
        )
    if VERSION in everything:
        return "some frames were labelled by another version of the code than the one installed, with the same settings"
    return None


def _method(frame: Frame, labeller: Method) -> str:
    """Hash of the method that a frame says it was labelled by, or a word where there is none, or another version."""
    said, code = (str(frame.atoms.info.get(key, "")) for key in ("label_method", "label_code"))
    if said and said != labeller.method_hash() and said == labeller.method_hash(code):
        return VERSION
    return said or UNSAID


def label(
    frames: Sequence[Atoms],
    labeller: Labeller | Folders,
    executor: Executor,
    directory: Path,
    generation: int,
    place: Path,
) -> None:
    """Labels of frames that have none in the store yet.

    Where not one of two or more gets a label, settings or machine are to blame rather than the frames: the generation
    stays open and the same command computes them again, unless a file GIVEN_UP lies in its directory.

    Args:
        frames: what is asked for.
        labeller: what answers.
        executor: where it computes.
        directory: of the labels.
        generation: its number.
        place: its directory.

    Raises:
        Waiting: the user has to run calculations first, or again.
        InputError: none of the frames could be labelled, or workers were lost.
    """
    if not frames:
        return
    if isinstance(labeller, Folders):
        _collect(frames, labeller, directory, generation)
        return
    given_up, store = (place / GIVEN_UP).exists(), Store(directory, labeller)
    before = labels_of(frames, store)
    for atoms in frames if _hopeless(before) and not given_up else ():
        if store.reasons(identity(atoms)):
            store.again(identity(atoms), without_labels(atoms))
    found = label_frames(frames, labeller, executor, directory)
    if found.missing:
        raise InputError(
            f"generation {generation}: {len(found.missing)} frames have no answer, since the workers that were at them "
            f"were lost ({store.lost(found.missing[0]) or 'no reason given'}); the same command computes them"
        )
    if _hopeless(found) and not given_up:
        remedy = f"; to go on without these frames, make an empty file {place / GIVEN_UP}" if generation else ""
        raise InputError(
            f"generation {generation}: none of its {len(found.failed)} frames could be labelled: {_reasons(found)}. "
            "Mend what the code needs (its command, potentials, modules, memory), and the same command computes them "
            f"again{remedy}"
        )


def _hopeless(found: Report) -> bool:
    """Whether frames have failed and none has a label."""
    return len(found.failed) >= FEW and not found.labelled


def _reasons(found: Report) -> str:
    """The first different reasons, the last one of each frame."""
    reasons = list(dict.fromkeys(why[-1] for why in found.failed.values()))
    return "; ".join(reasons[:SHOWN]) + ("; ..." if len(reasons) > SHOWN else "")


def _collect(frames: Sequence[Atoms], labeller: Folders, directory: Path, generation: int) -> None:
    """Write folders of input and read back what is finished.

    Raises:
        Waiting: some are not finished, or cannot be used and are not given up.
    """
    inputs = directory.with_name(f"{directory.name}.inputs")
    write_folders(frames, labeller, inputs)
    found = collect_folders(frames, labeller, inputs, directory)
    refused = {name: why[-1] for name, why in found.failed.items() if not (inputs / name / GIVEN_UP).exists()}
    left = len(found.missing) + len(refused)
    if left:
        total = len(found.labelled) + len(found.failed) + len(found.missing)
        lines = "".join(f"\n  {why}" for why in refused.values())
        raise Waiting(
            f"generation {generation} waits for {left} of {total} calculations in {inputs}: run the code in each "
            "folder, and the same command goes on; a folder that is to be given up gets a file named "
            f"{GIVEN_UP}{'. Not accepted:' if refused else ''}{lines}"
        )


def answers(frames: Sequence[Atoms], labeller: Method, directory: Path, generation: int) -> list[Atoms]:
    """The labels that the store has of frames, in their order, told which generation asked for them."""
    found = labels_of(frames, Store(directory, labeller)).labelled if frames else []
    for atoms in found:
        atoms.info[GENERATION] = generation
    return found


def not_failed(candidates: Sequence[Atoms], store: Store) -> list[Atoms]:
    """Candidates that have not been asked for in vain."""
    return [atoms for atoms in candidates if not store.reasons(identity(atoms))]


def failures(frames: Sequence[Atoms], store: Store) -> list[str]:
    """A line for each frame, once, that has no label for a reason."""
    found = {identity(atoms): atoms for atoms in frames}
    reasons = {name: store.reasons(name) for name in found if not store.done(name)}
    return [f"no label for {found[name].get_chemical_formula()}: {why[-1]}" for name, why in reasons.items() if why]
