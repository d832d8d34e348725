"""All checks of a dataset, one after the other, and what came of them as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from finetune.data.frames import Frame, without_isolated
from finetune.data.labels import LabelKeys
from finetune.data.splitting import subset
from finetune.display import cell
from finetune.doctor.bonding import bonding
from finetune.doctor.contents import isolated, label_keys, plain_units, settings, unusable
from finetune.doctor.coverage import Coverage, coverage, covered, outliers, too_close
from finetune.doctor.energies import composition_rank, energy_zero, mixed_energies
from finetune.doctor.findings import Finding, Verdict, by_source, some
from finetune.doctor.fixed import fixed_atoms
from finetune.doctor.labels import check_labels, not_compared
from finetune.doctor.likeness import likeness
from finetune.doctor.structures import duplicates, leaks, near_duplicates
from finetune.doctor.symmetry import symmetry_of_forces
from finetune.doctor.trajectories import finite_differences
from finetune.errors import InputError
from finetune.evaluation import Evaluation, evaluate
from finetune.potential import Potential

COLOURS: dict[Verdict, str] = {"good": "green", "warning": "yellow", "fault": "bold red", "skipped": "bright_black"}
WIDTH = 100  # columns of the terminal that the table needs at most
COMPARED = "labels against the model"
TOLD = "mend these labels; a fit refuses them as well (--data.units false trains all the same)"


@dataclass(frozen=True, eq=False)
class Examination:
    """What all checks found.

    Attributes:
        frames: the frames that can be used.
        files: number of usable frames of each file.
        findings: in the order of the checks.
        coverage: what the data cover.
        model: the potential that labels were compared with, None for none.
        purpose: what the verdict is about.
    """

    frames: Sequence[Frame]
    files: dict[str, int]
    findings: Sequence[Finding]
    coverage: Coverage
    model: str | None
    purpose: str = "training"

    def count(self, verdict: Verdict) -> int:
        """How many findings have a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)

    @property
    def sound(self) -> bool:
        """Training (or labelling) may go on: there is no fault."""
        return not self.count("fault")

    def summary(self) -> str:
        """The verdict on everything in one sentence."""
        counts = f"{self.count('fault')} faults, {self.count('warning')} warnings, {self.count('good')} good"
        end = f"{self.purpose} {'can' if self.sound else 'should not'} go on"
        return f"{len(self.frames)} frames: {counts}, {self.count('skipped')} skipped; {end}"

    def json(self) -> dict[str, Any]:
        """Verdict, findings and coverage as plain data; distances in Å, temperatures in K."""
        return {
            "sound": self.sound,
            "summary": self.summary(),
            "model": self.model,
            "files": self.files,
            "findings": [asdict(finding) for finding in self.findings],
            "compositions": dict(self.coverage.compositions),
            "temperatures_K": {f"{t:g}": count for t, count in self.coverage.temperatures.items()},
            "closest_A": {pair: round(d, 4) for pair, d in self.coverage.closest.items()},
        }

    def table(self) -> Table:
        """A row for each finding, of at most 100 columns: check, verdict, what was seen and the remedy."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("check", min_width=18)
        table.add_column("verdict", no_wrap=True)
        table.add_column("what was seen, and what to do")
        for finding in self.findings:
            words = cell(finding.words)
            if finding.remedy:
                words.append(cell(f"\n→ {finding.remedy}", "italic"))
            table.add_row(cell(finding.check), Text(finding.verdict, style=COLOURS[finding.verdict]), words)
        return table


def examine(
    frames: Sequence[Frame],
    keys: LabelKeys,
    potential: Potential | None = None,
    model: str | None = None,
    limit: int = 2000,
    batch_edges: int = 8000,
    crystals: Sequence[Frame] | None = None,
) -> Examination:
    """Run all checks.

    Args:
        frames: as read, each with the file that it stands in; files are taken for parts of a split.
        keys: the label keys that they were read with.
        potential: a pre-trained potential that has not seen the labels; None leaves comparisons out.
        model: its name.
        limit: largest number of frames, drawn at random, that are compared with the potential and with each other.
        batch_edges: largest number of edges in a batch.
        crystals: crystals of the same elements, whose bonds those of the frames are compared with; None: not compared.

    Raises:
        InputError: not a single frame can be used.
    """
    usable, findings = unusable(frames)
    usable, alone = without_isolated(usable)
    findings += isolated(alone, usable)
    findings += [*label_keys(usable, keys), *plain_units(usable), fixed_atoms(usable)]
    findings += [*finite_differences(usable), symmetry_of_forces(usable)]
    evaluation, drawn, compared = _compare(_some(usable, limit), potential, batch_edges)
    findings += [*compared, *settings(usable), composition_rank(usable)]
    if evaluation is not None:
        findings += [energy_zero(evaluation), mixed_energies(evaluation)]
    alike = likeness([frame.atoms for frame in drawn], None if evaluation is None else potential, batch_edges)
    seen = coverage(usable)
    findings += [duplicates(usable), near_duplicates(drawn, alike), *leaks(usable, alike, drawn)]
    findings += [*outliers(usable, evaluation), *bonding(usable, crystals), *covered(usable, seen)]
    return Examination(usable, _counted(usable), findings, seen, model)


def examine_structures(
    frames: Sequence[Frame],
    potential: Potential | None = None,
    model: str | None = None,
    limit: int = 2000,
    batch_edges: int = 8000,
    crystals: Sequence[Frame] | None = None,
) -> Examination:
    """The checks that need no labels, for structures that DFT is to be asked for; arguments as of `examine`.

    Raises:
        InputError: not a single frame can be used.
    """
    usable, findings = unusable(frames, labelled=False)
    drawn, left_out = _taken(_some(usable, limit), potential)
    alike = likeness([frame.atoms for frame in drawn], potential if drawn and not left_out else None, batch_edges)
    seen = coverage(usable)
    findings += [Finding("labels", "skipped", "structures alone were looked at"), *left_out]
    findings += [duplicates(usable), near_duplicates(drawn, alike), *leaks(usable, alike, drawn), too_close(usable)]
    findings += [*bonding(usable, crystals), *covered(usable, seen)]
    return Examination(usable, _counted(usable), findings, seen, model, "labelling")


def _counted(frames: Sequence[Frame]) -> dict[str, int]:
    """Number of frames of each file."""
    return {source: len(part) for source, part in by_source(frames).items()}


def _some(frames: Sequence[Frame], limit: int) -> Sequence[Frame]:
    """At most so many of the frames."""
    return subset(frames, limit / len(frames)) if len(frames) > limit else frames


def _taken(frames: Sequence[Frame], potential: Potential | None) -> tuple[Sequence[Frame], list[Finding]]:
    """The frames that a potential can take, and what is said of the others."""
    if potential is None:
        return frames, []
    refused: dict[int, str] = {}
    for i, frame in enumerate(frames):
        try:
            potential.graph(frame.atoms)
        except InputError as error:
            refused[i] = str(error)
    if not refused:
        return frames, []
    first = next(iter(refused))
    words = f"{len(refused)} frames are not compared: {some(frames[i].where() for i in refused)} ({refused[first]})"
    left_out = Finding(COMPARED, "warning", words, "name another --model that knows them, or --model none")
    return [frame for i, frame in enumerate(frames) if i not in refused], [left_out]


def _compare(
    frames: Sequence[Frame], potential: Potential | None, batch_edges: int
) -> tuple[Evaluation | None, Sequence[Frame], list[Finding]]:
    """Labels against a potential; the frames that it can take, or all of them where there is no comparison."""
    if potential is None:
        return None, frames, [Finding(COMPARED, "skipped", "no model was given, so energies were not compared")]
    taken, left_out = _taken(frames, potential)
    if not taken:
        return None, frames, left_out
    evaluation = evaluate(potential, taken, shift=True, batch_edges=batch_edges)
    faults = [Finding(COMPARED, "fault", words, TOLD) for words in check_labels(evaluation)]
    if faults:
        return evaluation, taken, [*left_out, *faults]
    row, unseen = evaluation.errors.all, not_compared(evaluation)
    parts = {
        "forces": f"forces cosine {row['forces_cosine']:.2f}, slope {row['forces_slope']:.2f}, "
        f"MAE {row['forces_mae']:.0f} meV/Å",
        "stress": f"stress MAE {row['stress_mae']:.1f} meV/Å³",
    }
    known = [text for name, text in parts.items() if math.isfinite(row[f"{name}_mae"]) and name not in unseen]
    findings = [Finding(COMPARED, "skipped", text) for text in unseen.values()]
    if known:
        words = f"no wrong sign or size in {len(taken)} frames: {'; '.join(known)}"
        findings.insert(0, Finding(COMPARED, "good", words))
    if not findings:
        words = f"{len(taken)} frames have neither forces nor stress that could be compared"
        findings = [Finding(COMPARED, "skipped", words)]
    return evaluation, taken, [*left_out, *findings]
