"""Names that anybody may have written into a file: markup, mathematics, HTML, escape sequences of terminals."""

from __future__ import annotations

import io
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from matplotlib.figure import Figure
from rich.console import Console

from finetune import display, plots
from finetune.cli.compare import table
from finetune.comparison import Errors, compare
from finetune.comparison.drawing import panels
from finetune.comparison.figures import Curve
from finetune.comparison.report import Told, contents, markdown, page
from finetune.data.reading import read

from ..commands import THEIR_WARNINGS, command, fit_arguments, labelled, write_parts

pytestmark = THEIR_WARNINGS
TITLE, CSI, C1, TURNED = "\x1b]0;owned\x07", "\x1b[2J\x1b[1A", "\x9b2J\x85", "a\u202eb"
NAMES = [
    *("bulk [/a]", "bulk [/]", "slab [li]", "slab [s]", "[bold]loud", r"\[x]", "[link=http://x]y"),
    *("$x_$", "$", r"$\frac$", r"a\$b$", "_left out", "a|b", "`x`", "```", "<b>x</b>", "<script>x</script>"),
    *(f"title {TITLE}", f"clear {CSI}", f"one byte {C1}", TURNED, "two\nlines", "\ud800"),
]
OBEYED = ("\x1b", "\x07", "\x9b", "\x85", "\u202e", "\ud800")


def shown(name: str) -> str:
    return name.encode("unicode_escape", "surrogatepass").decode() if any(c in name for c in (*OBEYED, "\n")) else name


def named(files, name_of) -> None:
    """Give the frames of files other families."""
    for path in files.values():
        frames = ase.io.read(path, ":")
        for k, atoms in enumerate(frames):
            atoms.info["family"] = name_of(k)
        ase.io.write(path, frames, format="extxyz")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_in_a_table_as_it_is_written(name):
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=False)
    console.print(display.cell(name))
    assert not any(character in text.getvalue() for character in OBEYED)
    if "\n" not in name:
        assert text.getvalue() == f"{shown(name)}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_in_a_plot_as_it_is_written(tmp_path, name):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=display.in_plot(name))
    legend = axes.legend()
    assert len(legend.texts) == 1
    plots.save(figure, tmp_path / "plot.png")
    text, is_math = legend.texts[0]._preprocess_math(legend.texts[0].get_text())
    assert not is_math
    assert text.strip() == shown(name).strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_neither_html_nor_a_row_or_block_of_markdown(name):
    text = display.in_markdown(name)
    assert not any(character in text for character in ("<", ">", "\n", *OBEYED))
    assert not any(text[k - 1] != "\\" for k, c in enumerate(text) if c in "|`*")
    block = display.fenced(f"{name}\n").splitlines()
    assert set(block[0]) == {"`"}
    assert all(block[0] not in line for line in block[1:-1])


def test_a_link_and_an_image_are_not_made_in_markdown():
    assert "](" not in display.in_markdown("[free](http://evil.example) ![](http://evil.example/x.png)")
    assert display.in_markdown("12 [10, 14] meV") == "12 [10, 14] meV"


def test_a_fit_to_families_of_any_name_ends_well_and_tells_them_apart(tmp_path, capsys):
    files = write_parts(tmp_path)
    families = ["bulk [/a]", "slab [li]", "slab [s]", f"${TITLE}$x"]
    named(files, lambda k: families[k % 4])
    assert command(*fit_arguments(files, tmp_path / "run", "--trainer.max_epochs", "1")) == 0
    said = capsys.readouterr()
    summary = (tmp_path / "run" / "summary.md").read_text()
    for text in (said.out, summary):
        for name in families:
            assert shown(name)[:9] in text
        assert not any(character in text for character in OBEYED)
    assert (tmp_path / "run" / "parity-valid.png").stat().st_size > 1000
    after = json.loads((tmp_path / "run" / "after.json").read_text())
    assert {shown(name) for name in families} >= set(after["valid"]["family"])


def test_doctor_tells_families_of_any_name(tmp_path, capsys):
    path = tmp_path / "frames.extxyz"
    frames = labelled("train")
    for k, atoms in enumerate(frames):
        atoms.info["family"] = [n for n in NAMES if "\ud800" not in n][k]
    ase.io.write(path, frames, format="extxyz")
    command("doctor", path, "--model", "none", "--output", tmp_path / "out")
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert not any(character in said.out + said.err for character in OBEYED)
    assert (tmp_path / "out" / "forces.png").is_file()


def test_names_of_frames_are_read_without_control_characters(tmp_path):
    atoms = Atoms("Li", cell=[3, 3, 3], pbc=True, info={"family": f"a{TITLE}", "group": f"b{CSI}"})
    name = f"c{TITLE.replace('/', '')}.extxyz"
    ase.io.write(tmp_path / name, atoms, format="extxyz")
    frame = read(str(tmp_path / "*.extxyz"), labelled=False)[0]
    for text in (frame.family, frame.group, frame.where()):
        assert not any(character in text for character in OBEYED)
    assert frame.family == r"a\x1b]0;owned\x07"


@pytest.mark.parametrize(
    "words", [("evaluate", f"{TITLE}.ckpt", "x.extxyz"), (f"{CSI}",), ("fit", f"--x{C1}"), ("md", f"--y{CSI}", "1")]
)
def test_a_message_does_not_repeat_escape_sequences(words, capsys):
    assert command(*words) != 0
    told = capsys.readouterr()
    assert not any(character in told.err + told.out for character in OBEYED)
    assert r"\x1b" in told.err or r"\x9b" in told.err


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two columns and a heading whose names are markup."""
    place = tmp_path_factory.mktemp("compare")
    frames = []
    for seed in range(3):
        atoms = Atoms("Li2", [(0, 0, 0), (0, 0, 2.8)], cell=[6, 6, 6], pbc=True)
        atoms.rattle(0.1, seed=seed)
        own = atoms.copy()
        own.calc = LennardJones(sigma=2.5)
        atoms.info |= {"REF_energy": own.get_potential_energy(), "family": "<i>f</i>[/b]"}
        atoms.arrays["REF_forces"] = own.get_forces()
        frames.append(atoms)
    ase.io.write(place / "f.extxyz", frames)
    columns = {"a [/x] <img src=x>": LennardJones(sigma=2.5), f"b|`{TITLE}": LennardJones(sigma=2.4)}
    observable = Errors(files=[str(place / "f.extxyz")], title="[/t] <script>")
    return compare(columns, [observable], place / "out", progress=False)


def test_the_matrix_of_a_comparison_shows_names_as_they_are_written(comparison):
    text = io.StringIO()
    Console(file=text, width=200).print(table(comparison))
    for word in ("a [/x] <img src=x>", r"b|`\x1b]0;owned\x07"):
        assert word in text.getvalue()
    assert "\x1b" not in text.getvalue()


def test_reports_of_a_comparison_hold_no_markup_of_names(comparison):
    content = contents(comparison, Told(title="<img src=x onerror=y> [/] " + TITLE, commands=["finetune\n<script>"]))
    text = markdown(content)
    for word in ("<img", "<script", "<i>", "\x1b"):
        assert word not in text.replace("    finetune\\n<script>", "")
    assert "<img src=x" not in page(content).replace("&lt;img", "")


def test_names_in_plots_of_a_page_are_not_tags():
    curve = Curve("<a href='http://evil.example'>p</a>", [0.0, 1.0], [0.0, 1.0], "<b>x</b>", "y")
    figure = panels({"<b>name</b>": [curve]}, None, ["<b>name</b>"])
    assert figure is not None
    text = json.dumps(json.loads(figure.to_json()), default=str)
    assert "<b>" not in text.replace('"legendgroup": "<b>name</b>"', "")
    assert "<a " not in text
    assert np.isfinite(figure.layout.height)
