"""Output of VASP: which ionic steps are DFT, and whose electrons converged."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
from ase import Atoms

from finetune.data.compression import open_bytes
from finetune.errors import InputError

XML, OUTCAR = "vasp-xml", "vasp-out"  # formats of ASE
CALCULATION = re.compile(rb"<calculation\b.*?</calculation>", re.DOTALL)
NELM_XML = re.compile(rb'name="NELM"[^>]*>\s*(\d+)')
EXACT = re.compile(rb'name="ALGO"[^>]*>\s*(?:exact|none|nothing|chi|gw|acfdt|bse|timeev)', re.IGNORECASE)
FORCES_XML = re.compile(rb'<varray name="forces"')
END = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"  # of an ionic step in OUTCAR; four more lines follow
MACHINE = re.compile(r"\bML\s+FREE ENERGIE")
ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
NELM_OUT = re.compile(r"NELM\s*=\s*(\d+)")
REACHED = "EDIFF is reached"
SHOWN = 5


@dataclass(frozen=True)
class Step:
    """An ionic step.

    Attributes:
        electronic: number of electronic steps; 0 for a step of VASP's machine-learned force field.
        converged: whether they ended before NELM.
    """

    electronic: int
    converged: bool


class _Named(io.StringIO):
    """A text with the name of its file, beside which ASE looks for constraints."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True)
class _Output:
    """What ASE is to read, without the steps of the force field, and all ionic steps in order."""

    stream: io.BytesIO | io.StringIO
    steps: list[Step]


def read_vasp(path: Path, kind: str, labelled: bool = True) -> Iterator[tuple[int, Atoms]]:
    """Yield the ionic steps of DFT, each with its number from 0.

    Steps of VASP's machine-learned force field are left out, since their energies and forces are not DFT; with
    `labelled`, so are steps whose electrons did not converge within NELM.

    Args:
        path: vasprun.xml or OUTCAR, compressed or not.
        kind: `vasp-xml` or `vasp-out`.
        labelled: whether labels are wanted; False for structures alone.

    Raises:
        InputError: no step is left.
    """
    output = _prepare(path, kind)
    dft = [index for index, step in enumerate(output.steps) if step.electronic]
    machine = len(output.steps) - len(dft)
    bad = [index for index in dft if not output.steps[index].converged] if labelled else []
    if machine and not dft:
        raise InputError(
            f"{path}: all {machine} ionic steps are of VASP's machine-learned force field, expected DFT. These are no "
            "DFT labels; recompute the structures (XDATCAR) with ML_LMLFF = .FALSE."
        )
    if bad and len(bad) == len(dft):
        raise InputError(f"{path}: {_unconverged(output.steps, bad)}, and no step is left. Raise NELM or change ALGO")
    if machine:
        warnings.warn(
            f"{path}: {machine} of {len(output.steps)} ionic steps are of VASP's machine-learned force field; they are "
            "left out, since they are no DFT labels",
            stacklevel=2,
        )
    if bad:
        words = f"{path}: {_unconverged(output.steps, bad)}; left out. Raise NELM or change ALGO"
        warnings.warn(words, stacklevel=2)
    images = ase.io.iread(output.stream, index=":", format=kind)
    for position, atoms in enumerate(images):
        index = dft[position] if position < len(dft) else position
        if index not in bad:
            yield index, atoms


def converged(path: Path, kind: str) -> bool:
    """Whether the electrons of the last ionic step converged; also False where that step is no DFT."""
    steps = _prepare(path, kind).steps
    return bool(steps) and steps[-1].converged and steps[-1].electronic > 0


def _unconverged(steps: list[Step], bad: list[int]) -> str:
    """Ionic steps by the number of their frame, and the number of electronic steps that they reached, in words."""
    frames = "frame" if len(bad) == 1 else "frames"
    named = ", ".join(f"{index} (NELM = {steps[index].electronic})" for index in bad[:SHOWN])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"electrons did not converge in {len(bad)} of {len(steps)} ionic steps: {frames} {named}{more}"


def _prepare(path: Path, kind: str) -> _Output:
    with open_bytes(path) as stream:
        content = stream.read()
    return _of_xml(content) if kind == XML else _of_outcar(content.decode(errors="replace"), path)


def _of_xml(content: bytes) -> _Output:
    """Steps of vasprun.xml; those of the force field have no electronic steps, or stand outside of <calculation>."""
    blocks = list(CALCULATION.finditer(content))
    head = content[: blocks[0].start()] if blocks else content
    limits = NELM_XML.findall(head)
    limit = int(limits[-1]) if limits and not EXACT.search(head) else None
    steps, outside, end = [], [], 0
    for block in blocks:
        steps += [Step(0, True)] * len(FORCES_XML.findall(content, end, block.start()))
        electronic = block.group().count(b"<scstep>")
        steps.append(Step(electronic, limit is None or electronic < limit))
        if not electronic:
            outside.append(block)
        end = block.end()
    rest = content[end:]
    opened = rest.find(b"<calculation")  # of a file that is cut off
    steps += [Step(0, True)] * len(FORCES_XML.findall(rest[:opened] if opened >= 0 else rest))
    if opened >= 0:
        electronic = rest.count(b"<scstep>", opened)
        steps.append(Step(electronic, limit is None or electronic < limit))
    for block in reversed(outside):
        content = content[: block.start()] + content[block.end() :]
    return _Output(io.BytesIO(content), steps)


def _of_outcar(text: str, path: Path) -> _Output:
    """Steps of OUTCAR: each ends with its free energy, of the force field with one that is marked ML."""
    lines = text.splitlines(keepends=True)
    begin = next((k + 1 for k, line in enumerate(lines) if "Iteration" in line), len(lines))  # where ASE begins
    limits = NELM_OUT.findall("".join(lines[:begin]))
    steps, kept, start = [], lines[:begin], 0
    for end in [k + 5 for k, line in enumerate(lines) if END in line]:
        chunk = "".join(lines[start:end])
        if MACHINE.search(chunk):
            steps.append(Step(0, True))
        else:
            electronic = max(map(int, ITERATION.findall(chunk)), default=1)
            steps.append(Step(electronic, REACHED in chunk or not limits or electronic < int(limits[-1])))
            kept += lines[max(start, begin) : end]
        start = end
    return _Output(_Named("".join([*kept, *lines[max(start, begin) :]]), str(path)), steps)
