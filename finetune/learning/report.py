"""`report.html`: one file that opens without a network; what a campaign has come to up to a generation."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ase import Atoms

from finetune.files import write_text
from finetune.labelling.store import identity
from finetune.learning import figures
from finetune.learning.campaign import Learning
from finetune.learning.describing import SCORES
from finetune.learning.files import read_facts, read_frames
from finetune.learning.generation import explored
from finetune.learning.harvesting import records
from finetune.metrics import Errors, paired

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th { vertical-align: bottom; color: #555; font-weight: 600; } .text { text-align: left; }
svg { max-width: 100%; height: auto; } p { max-width: 50rem; } summary { cursor: pointer; color: #0072b2; }
"""
NOTE = (
    "<p>Uncertain time: share of the time of dynamics in which an atom was beyond the select threshold, with what a "
    "stop has cut off. Computing: of an arm's labels, failed ones too; frames that had labels before cost nothing. "
    "Errors are those of the validation frames unless they say test; the rank correlation is that of the committee's "
    "spread with the true errors of forces, over the atoms of all elements. In brackets: 95 % interval from a "
    "bootstrap over the groups of the frames, where there are three or more.</p>"
)
ENDS = {None: "to the end", "Unknown": "stop threshold of the uncertainty"}  # of runs, where the guard's name says less
SLACK = 0.1  # share of the labels by which two arms may differ and be compared
LONG = 90  # characters of the story of a frame, its end
MANY = 200  # explored frames of a generation that are drawn


def write_report(learning: Learning, n: int) -> None:
    """Write the report of a generation, once."""
    path = learning.place(n) / "report.html"
    if not path.exists():
        write_text(path, page(learning, n))


def page(learning: Learning, n: int) -> str:
    """The report as HTML."""
    arms = {"selected": False, **({"random control": True} if learning.campaign.control else {})}
    history = {name: learning.history(n, control) for name, control in arms.items()}
    errors = {name: [_errors(learning, k, control) for k in range(n + 1)] for name, control in arms.items()}
    start = len(read_frames(learning.place(0) / "train.extxyz"))
    sections = [
        ("Learning curves", verdict(history, errors) + figures.learning_curves(history, errors, start)),
        ("Generations", _generations(history, errors)),
        *([("What was selected, and why", _selected(learning, n))] if n else []),
        *([("Survival of dynamics", _survival(learning, n))] if n else []),
        ("Compositions", _map(learning, n)),
        *([("Cost", figures.cost(history["selected"], _labelled(learning, n)))] if n else []),
        ("Settings", _settings(learning)),
    ]
    body = "\n".join(f"<h2>{title}</h2>\n{content}" for title, content in sections)
    title = f"Active learning, generation {n}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], text: Sequence[int] = (0,)) -> str:
    """An HTML table; columns `text` are aligned to the left."""

    def line(cells: Sequence[Any], tag: str) -> str:
        marks = [' class="text"' if k in text else "" for k in range(len(cells))]
        return "".join(f"<{tag}{m}>{html.escape(_plain(c))}</{tag}>" for m, c in zip(marks, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{line(header, "th")}</tr>{body}</table></div>'


def _plain(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _errors(learning: Learning, n: int, control: bool) -> dict[str, Any]:
    content: dict[str, Any] = read_facts(learning.place(n, control) / "errors.json")
    return content


def verdict(history: Mapping[str, Sequence[Any]], errors: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the comparison with the random control in a paragraph."""
    last = history["selected"][-1]
    valid = errors["selected"][-1].get("valid", {}).get("all", {})
    text = (
        f"Forces RMSE {last.forces_rmse:.0f}{_between(valid, 'forces_rmse')} meV/Å on the validation frames after "
        f"{last.labels} new labels"
    )
    if "random control" in history and last.generation:
        other = history["random control"][-1]
        text += f"; {other.forces_rmse:.0f} meV/Å with {other.labels} labels selected at random"
        pairs = list(zip(history["selected"][1:], history["random control"][1:], strict=True))
        fair = [(one, two) for one, two in pairs if abs(one.labels - two.labels) <= SLACK * one.labels]
        if fair:
            ahead = sum(one.forces_rmse < two.forces_rmse for one, two in fair)
            text += f". Its error there is below that of random selection in {ahead} of {len(fair)} generations"
        if len(fair) < len(pairs):
            text += f". {len(pairs) - len(fair)} generations are not compared, since an arm has fewer labels there"
        tests = [content[-1]["test"] for content in errors.values() if "test" in content[-1]]
        if len(tests) > 1:
            text += f". {_on_test_frames(tests[0], tests[1])}"
        text += (
            ". Intervals are 95 % and come from the groups of frames: they leave out the scatter of the campaign "
            "itself, which only more campaigns would show"
        )
    return f"<p>{html.escape(text)}.</p>"


def _on_test_frames(selected: Mapping[str, Any], control: Mapping[str, Any]) -> str:
    """The difference of both arms on the test frames, with its interval, in a sentence."""
    found = paired(Errors.from_json(control), Errors.from_json(selected), "forces_mae")
    own, other = (part["all"]["forces_mae"] for part in (selected, control))
    start = f"On the test frames the forces MAE is {own:.1f} meV/Å, {other:.1f} with random selection"
    low, high = found.difference_interval
    if not math.isfinite(low):
        reason = "these files are of a version without sums per group" if not found.groups else "there are fewer than 3"
        return f"{start}; no interval over groups of frames, since {reason}"
    difference = f"difference {found.difference:+.1f} ({low:+.1f} to {high:+.1f}) meV/Å over {found.groups} groups"
    if not found.distinguishable:
        return f"{start}: {difference}, not distinguishable"
    return f"{start}: {difference}, {'better' if found.difference < 0 else 'worse'} than random selection"


def _between(row: Mapping[str, Any], key: str) -> str:
    """` (148 to 201)`; empty without an interval."""
    low, high = (row.get(f"{key}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f" ({low:.0f} to {high:.0f})"


def _generations(history: Mapping[str, Sequence[Any]], errors: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for each generation and arm."""
    judged = [content["test"] for content in errors["selected"] if "test" in content]
    families = sorted({family for test in judged for family in test["family"]})
    header = ["arm", "generation", "new labels", "refused", "candidates", "uncertain time, %", "computing, h"]
    header += [
        "forces RMSE, meV/Å",
        "forces MAE, meV/Å",
        "energy MAE, meV/atom",
        "rank correlation of spread and error",
        "test: forces MAE, meV/Å",
        "energy MAE, meV/atom",
        "rank correlation",
        *(f"forces MAE, {family}" for family in families),
    ]
    rows = []
    for name, summaries in history.items():
        for one, content in zip(summaries, errors[name], strict=True):
            valid = content["valid"]
            share = None if one.uncertain is None else 100 * one.uncertain
            explored = [one.candidates, share] if name == "selected" else [None, None]  # the control explores nothing
            row = [name, one.generation, one.labels, one.refused, *explored, one.cost_h]
            row += [_cell(valid["all"], key) for key in ("forces_rmse", "forces_mae", "energy_mae")]
            test = content.get("test", {})
            row += [
                valid.get("rank_correlation"),
                *(_cell(test.get("all", {}), key) for key in ("forces_mae", "energy_mae")),
                test.get("rank_correlation"),
            ]
            rows.append([*row, *(_cell(test.get("family", {}).get(family, {}), "forces_mae") for family in families)])
    return table(header, rows) + NOTE


def _cell(row: Mapping[str, Any], key: str) -> str | None:
    """An error with its interval."""
    return None if row.get(key) is None else f"{_plain(float(row[key]))}{_between(row, key)}"


def _selected(learning: Learning, n: int) -> str:
    """Figure and tables of what was asked for, the last generation open."""
    score = learning.campaign.explorer.thresholds.score
    parts = []
    for k in range(n, 0, -1):
        place = learning.place(k)
        chosen = read_frames(place / "selected.extxyz")
        about = read_facts(place / "candidates.json")
        words = ", ".join(f"{key} {value}" for key, value in about.items() if key != "refused")
        refused = "".join(f"<li>{html.escape(reason)}</li>" for reason in sorted(set(about["refused"])))
        figure = (
            figures.selected(read_frames(place / "candidates.extxyz"), chosen, score, SCORES[score]) if k == n else ""
        )
        content = f"<p>{words}</p>{figure}<ul>{refused}</ul>{_asked(place, chosen, score)}"
        opened = " open" if k == n else ""
        parts.append(f"<details{opened}><summary>generation {k}: {len(chosen)} frames</summary>{content}</details>")
    note = (
        "<p>Score: uncertainty of the most uncertain atom. Distance: to the nearest frame that was labelled or chosen "
        "before, two candidates being about 1 apart. Front: 1 where the uncertain atoms see both reactants alike, 0 "
        "within one of them.</p>"
    )
    return note + "".join(parts)


def _asked(place: Any, chosen: Sequence[Atoms], score: str) -> str:
    """A row for each frame that was asked for."""
    answered = {identity(atoms): atoms for atoms in read_frames(place / "labelled.extxyz")}
    rows = []
    for atoms in chosen:
        answer = answered.get(identity(atoms))
        seconds = None if answer is None else float(answer.info.get("wall_s", 0.0))
        story = str(atoms.info.get("made_by", ""))
        story = story if len(story) <= LONG else f"…{story[-LONG:]}"
        row = [atoms.get_chemical_formula(), atoms.info.get("family", ""), story]
        row += [atoms.info["score"], atoms.info["worst"], atoms.info["distance"], atoms.info["front"]]
        rows.append([*row, "labelled" if answer is not None else "no label", seconds])
    header = ["formula", "family", "made by", score, "most uncertain atom", "distance", "front", "answer", "s"]
    return table(header, rows, text=(0, 1, 2)) if rows else "<p>Nothing was worth asking for.</p>"


def _survival(learning: Learning, n: int) -> str:
    """Figure, and how runs ended."""
    runs = [[r for r in records(learning.place(k) / "explored") if "planned_ps" in r] for k in range(1, n + 1)]
    if not any(runs):
        return "<p>No dynamics: the candidates come from a pool of structures.</p>"
    rows: list[list[Any]] = []
    for k, of_generation in enumerate(runs, 1):
        ends = Counter(ENDS.get(run["guard"], run["guard"]) for run in of_generation)
        rows += [[k, end, count] for end, count in ends.most_common()]
    keys = ("name", "start", "temperature_K", "pressure_GPa", "change", "reached_ps", "frames", "uncertain")
    last = [[*(run[key] for key in keys), ENDS.get(run["guard"], run["guard"]), run["message"]] for run in runs[-1]]
    header = ["run", "start", "K", "GPa", "change", "reached, ps", "frames", "uncertain", "ended by", "why"]
    runs_table = table(header, last, text=(0, 1, 8, 9))
    ends_table = table(["generation", "ended by", "runs"], rows, text=(1,))
    return (
        figures.survival(runs)
        + ends_table
        + f"<details><summary>runs of generation {n}</summary>{runs_table}</details>"
    )


def _map(learning: Learning, n: int) -> str:
    """Compositions of the beginning, of what was explored last, and of what was labelled."""
    frames = explored(learning.place(n)) if n else []
    few = frames[:: max(1, len(frames) // MANY)]
    return figures.composition_map(read_frames(learning.place(0) / "train.extxyz"), few, _labelled(learning, n))


def _labelled(learning: Learning, n: int) -> list[Atoms]:
    return [atoms for k in range(1, n + 1) for atoms in read_frames(learning.place(k) / "labelled.extxyz")]


def _settings(learning: Learning) -> str:
    """Everything that decides the labels."""
    settings = learning.campaign.settings(learning.parts)
    return table(["setting", "value"], [[key, str(value)] for key, value in settings.items()], text=(0, 1))
