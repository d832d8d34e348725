"""`finetune label FILE -c CONFIG --output OUT`: energies, forces and stress by DFT or any other calculator."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import ase

from finetune.cli import inputs
from finetune.data.checking import check
from finetune.data.reading import read
from finetune.display import message
from finetune.errors import InputError
from finetune.files import write_frames
from finetune.labelling.core import Folders, Labeller
from finetune.labelling.executors import Processes
from finetune.labelling.run import INPUTS, Report, collect_folders, report, write_folders
from finetune.labelling.run import label as label_frames
from finetune.labelling.store import Store, claim


def run(arguments: list[str]) -> int:
    """Label with arguments as on the command line; the file comes first. Status 1 where frames failed."""
    parser = inputs.parser(
        "label",
        "Label structures by DFT: energy, forces and stress. Run it again to go on after it was stopped.",
        "FILE [FILE ...] -c CONFIG --output OUT [--OPTION VALUE ...]",
    )
    parser.add_argument("file", nargs="+", help="structures: files, folders or glob patterns")
    parser.add_function_arguments(label, as_group=False, skip={"file"})
    words = ["--collect=true" if word == "--collect" else word for word in arguments[1:]]
    words = ["--retry=true" if word == "--retry" else word for word in words]
    parsed = parser.parse_args(words)
    if parsed.collect:
        parsed.executor = None  # some begin to work when they are made
    return label(**inputs.given(parser.instantiate(parsed)))


def label(
    file: Sequence[str],
    labeller: Labeller | Folders,
    output: Path,
    executor: Executor | None = None,
    retry: bool = False,
    collect: bool = False,
    known: str | list[str] | None = None,
) -> int:
    """Label the frames of files and write those that have labels to one extended XYZ file.

    Labels come into OUTPUT.labels, a file for each frame, so that nothing is lost or computed twice. A labeller that
    writes folders of input (`finetune.labelling.VaspFolders`) leaves them in OUTPUT.inputs for you to run; the same
    command with --collect then reads those that are finished.

    Args:
        file: structures; labels that they have are ignored.
        labeller: what gives the labels, by `class_path`.
        output: the extended XYZ file to write.
        executor: where it is computed, a `concurrent.futures.Executor` by `class_path`; default: processes here.
        retry: try frames again that failed before.
        collect: compute nothing; write what is there already, and read finished folders.
        known: labelled files; frames of theirs that the same method has labelled are taken over, not computed.
    """
    if output.suffix not in (".extxyz", ".xyz"):
        raise InputError(f"--output {output} must end in .extxyz")
    frames = read(list(file), labelled=False)
    check(frames, labelled=False)
    atoms = [with_origin(frame.atoms, frame.family, frame.group) for frame in frames]
    directory = output.with_name(output.name + ".labels")
    labeller.check()
    if isinstance(labeller, Folders):
        inputs = output.with_name(output.name + ".inputs")
        if not collect:
            new, all_there = write_folders(atoms, labeller, inputs)
            print(f"{new} folders of input written, {all_there} are in {inputs}; run the code in each of them")
            print("(POTCAR.spec names the potentials), then the same command with --collect reads the results")
            return 0
        claim(inputs, labeller, INPUTS)
        found = collect_folders(atoms, labeller, inputs, directory)
    elif collect:
        found = report(atoms, Store(directory, labeller))
    else:
        there = [frame.atoms for frame in read(known)] if known else []
        found = label_frames(atoms, labeller, executor or Processes(), directory, retry, there)
    if found.labelled:
        write_frames(output, found.labelled)
    tell(found, output, directory)
    return int(bool(found.failed))


def with_origin(atoms: ase.Atoms, family: str, group: str) -> ase.Atoms:
    """The structure with its family and group, which may come from its file."""
    atoms = atoms.copy()
    atoms.info |= {"family": family, "group": group}
    return atoms


def tell(found: Report, output: Path, directory: Path) -> None:
    """Print what became of the frames.

    Raises:
        InputError: not a single frame has labels.
    """
    seconds = sum(float(atoms.info.get("wall_s", 0)) for atoms in found.labelled)
    if found.repeated:
        print(f"{found.repeated} frames stand in the input more than once; each is labelled once")
    for name, reasons in list(found.failed.items())[:5]:
        print(message(f"failed {name}: {reasons[-1]}"))
    if found.failed:
        print(
            f"{len(found.failed)} failed frames, their reasons and logs are in {directory}/failed and /logs; ", end=""
        )
        print("--retry computes them again")
    if not found.labelled:
        raise InputError(f"none of {len(found.failed) + len(found.missing)} frames has labels; {output} is not written")
    more = f", {len(found.missing)} are still to be computed" if found.missing else ""
    print(f"{len(found.labelled)} labelled frames in {output} ({seconds / 3600:.2f} h of computing){more}")
