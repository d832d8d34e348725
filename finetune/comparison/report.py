"""The report of a comparison: `report.json` with all figures, `report.md` for a pull request, `report.html`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from finetune.comparison.compare import Comparison
from finetune.comparison.drawing import panels
from finetune.comparison.figures import Curve
from finetune.comparison.verdicts import Judged, times
from finetune.display import in_markdown, printable
from finetune.files import write_text

SYMBOLS = {"same": "≈", "within": "●", "near": "◐", "off": "○", "beyond": "▲", "failed": "✕", "told": "–", "none": ""}
MEANING = {
    "same": "not distinguishable: the difference is below the floor",
    "within": "within DFT's own uncertainty, or passes",
    "near": "within 3 times of it",
    "off": "within 10 times",
    "beyond": "beyond 10 times, or fails",
    "failed": "no result",
    "told": "no verdict",
}
UNIT = (
    "in units of DFT's own uncertainty (what two careful calculations may differ by), or of the floor (the difference "
    "that the same thing measured twice shows), the larger of both"
)


@dataclass(frozen=True)
class Told:
    """What belongs to a report beside the comparison.

    Attributes:
        title: heading.
        commands: what reproduces it.
        config: the resolved configuration, as YAML.
        versions: of packages.
    """

    title: str = "Comparison with DFT"
    commands: Sequence[str] = ()
    config: str = ""
    versions: Mapping[str, str] | None = None


def write_report(comparison: Comparison, directory: str | Path, told: Told = Told()) -> Path:
    """Write `report.json`, `report.md` and `report.html`, and return the path of the last.

    The page holds everything that it shows and opens without a network.
    """
    place = Path(directory)
    content = contents(comparison, told)
    write_text(place / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(place / "report.md", markdown(content))
    write_text(place / "report.html", page(content))
    return place / "report.html"


def contents(comparison: Comparison, told: Told) -> dict[str, Any]:
    """All that a report says, as plain numbers: what `report.json` holds, and what the page is made from."""
    rows = []
    for row, observable in comparison.observables.items():
        cells = {name: _cell(comparison, row, name) for name in comparison.columns if (row, name) in comparison.results}
        limits = {
            kind: {"absolute": t.absolute, "relative": t.relative, "target": t.target}
            for kind, t in observable.limits().items()
        }
        rows.append(
            {
                "heading": row,
                "about": observable.about,
                "exact": observable.exact,
                "alike": [list(pair) for pair in comparison.alike(row)],
                "settings": observable.settings(),
                "tolerances": limits,
                "strict": list(observable.strict),
                "timed": observable.alone,
                "cells": cells,
            }
        )
    return {
        "title": told.title,
        "reference": comparison.reference,
        "columns": {name: dict(facts) for name, facts in comparison.provenance.items()},
        "rows": rows,
        "commands": list(told.commands),
        "config": told.config,
        "versions": dict(told.versions or {}),
    }


def _cell(comparison: Comparison, row: str, name: str) -> dict[str, Any]:
    """One cell: its verdict, figures beside the reference, curves, notes."""
    result = comparison.results[row, name]
    verdict = comparison.verdict(row, name)
    cell: dict[str, Any] = {"verdict": verdict.word, "brief": verdict.brief, "detail": verdict.detail}
    cell |= {"wall_s": round(result.wall_s, 1), "error": result.error}
    if (row, name) in comparison.warnings:
        cell["warning"] = comparison.warnings[row, name]
    if result.measured is not None:
        cell["figures"] = [_row(judged) for judged in comparison.judged(row, name)]
        measured = result.measured.json()
        curves = [{key: value for key, value in curve.items() if key != "parts"} for curve in measured["curves"]]
        cell |= {"curves": curves, "notes": measured["notes"]}
    return cell


def _row(judged: Judged) -> dict[str, Any]:
    figure = judged.figure
    numbers = {"value": figure.value, "low": figure.low, "high": figure.high, "reference": judged.reference}
    distance = None if judged.strict or not math.isfinite(judged.ratio) else judged.ratio
    return {
        "subject": figure.subject,
        "kind": figure.kind,
        "unit": figure.unit,
        **{name: _number(value) for name, value in numbers.items()},
        "floor": _number(figure.floor),
        "ratio": _number(distance),
        "class": judged.word,
        "short": judged.short,
    }


def _number(value: float | None) -> float | None:
    """A number for JSON; null where it is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def summary(cell: Mapping[str, Any] | None) -> str:
    """A cell of the matrix in a few words."""
    return "" if cell is None else f"{SYMBOLS[cell['verdict']]} {cell['brief']}".replace("– –", "–").strip()


def told_number(value: float | None) -> str:
    """Four significant digits."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.2e}"


def markdown(content: Mapping[str, Any]) -> str:
    """The matrix with the worst figures, and what gave no result, for a pull request."""
    names = [name for name in content["columns"] if name != content["reference"]]
    lines = [f"## {in_markdown(content['title'])}", ""]
    if content["reference"]:
        lines += [
            f"Each cell: how far the worst figure is from {in_markdown(content['reference'])}, {UNIT}. "
            + ", ".join(f"{SYMBOLS[word]} {MEANING[word]}" for word in MEANING),
            "",
        ]
    lines += ["| | " + " | ".join(map(in_markdown, names)) + " |", "|---|" + "---|" * len(names)]
    faults, alike = [], []
    for row in content["rows"]:
        cells = [row["cells"].get(name) for name in names]
        lines.append(f"| {in_markdown(row['heading'])} | " + " | ".join(map(_told, cells)) + " |")
        failed = [(name, cell) for name, cell in row["cells"].items() if cell["verdict"] == "failed"]
        faults += [in_markdown(f"- no result: {row['heading']}, {name}: {cell['error']}") for name, cell in failed]
        alike += [in_markdown(f"- not distinguishable: {row['heading']}, {a} and {b}") for a, b in row.get("alike", [])]
    lines += [
        "",
        *faults,
        *alike,
        *([""] if faults or alike else []),
        *(f"    {printable(command)}" for command in content["commands"]),
        "",
    ]
    return "\n".join(lines)


def _told(cell: Mapping[str, Any] | None) -> str:
    """A cell with its figure and warning, for a table in Markdown."""
    more = "; ".join(text for text in (cell["detail"], warning(cell)) if text) if cell else ""
    return in_markdown(f"{summary(cell)} ({more})" if more else summary(cell))


def warning(cell: Mapping[str, Any]) -> str:
    """What makes a cell worth less than it seems."""
    return f"⚠ {cell['warning']}" if cell.get("warning") else ""


def page(content: Mapping[str, Any]) -> str:
    """The page of a report, from what `report.json` holds."""
    source = resources.files("finetune.comparison").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": told_number, "times": times, "summary": summary, "warning": warning}
    plots = {row["heading"]: _plot(row, content) for row in content["rows"]}
    drawn = {
        name: figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}, div_id=f"plot{k}")
        for k, (name, figure) in enumerate(plots.items())
        if figure is not None
    }
    return environment.from_string(source).render(
        **content,
        notes=_notes(content),
        symbols=SYMBOLS,
        meaning=MEANING,
        unit=UNIT,
        plots=drawn,
        tables=_tables(content),
        limits={row["heading"]: _limits(row) for row in content["rows"]},
        plotly=get_plotlyjs(),
    )


def _plot(row: Mapping[str, Any], content: Mapping[str, Any]) -> go.Figure | None:
    curves = {name: [Curve.from_json(curve) for curve in cell.get("curves", [])] for name, cell in row["cells"].items()}
    return panels(curves, content["reference"], list(content["columns"]))


def _notes(content: Mapping[str, Any]) -> dict[str, list[tuple[str, list[str]]]]:
    """For each row of the matrix, its notes with the columns that they are of."""
    found = {}
    for row in content["rows"]:
        owners: dict[str, list[str]] = {}
        for name, cell in row["cells"].items():
            for note in cell.get("notes", []):
                owners.setdefault(note, []).append(name)
        found[row["heading"]] = list(owners.items())
    return found


def _limits(row: Mapping[str, Any]) -> str:
    """By what the figures of a row are judged, in words with units."""
    units = {figure["kind"]: figure["unit"] for cell in row["cells"].values() for figure in cell.get("figures", [])}
    distances: list[str] = []
    limits: list[str] = []
    for kind, tolerance in row["tolerances"].items():
        if kind not in units:
            continue
        unit = f" {units[kind]}" if units[kind] else ""
        parts = [f"{told_number(tolerance['absolute'])}{unit}"] if tolerance["absolute"] else []
        parts += [f"{100 * tolerance['relative']:.3g} %"] if tolerance["relative"] else []
        target = tolerance["target"]
        right = "" if target is None else f" (right: {told_number(target)})"
        (limits if kind in row["strict"] else distances).append(f"{kind} {' + '.join(parts) or 0}{right}")
    told = [f"DFT's own uncertainty here: {'; '.join(distances)}."] if distances else []
    return " ".join([*told, *([f"Passes within: {'; '.join(limits)}."] if limits else [])])


def _tables(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """For each row of the matrix, its figures by subject and quantity, with what each column says."""
    tables = {}
    for row in content["rows"]:
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for name, cell in row["cells"].items():
            for figure in cell.get("figures", []):
                key = (figure["kind"], figure["subject"])
                line = lines.setdefault(key, {"kind": key[0], "subject": key[1], "unit": figure["unit"], "cells": {}})
                line["cells"][name] = figure
        order = {kind: k for k, kind in enumerate(dict.fromkeys(kind for kind, _ in lines))}
        tables[row["heading"]] = sorted(lines.values(), key=lambda line: order[line["kind"]])
    return tables
