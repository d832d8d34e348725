"""Files that a power cut, a copy or a disk has cut or emptied: words with their path, never fewer frames in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from finetune.errors import InputError
from finetune.labelling import Calculated, Outcome
from finetune.labelling.run import label, report
from finetune.labelling.store import Store, identity

from ..campaigns import answers, write_config, write_files
from ..commands import THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS

LENNARD_JONES = Calculated("ase.calculators.lj.LennardJones")
STEPS = ("candidates", "selected", "labelled", "train", "control/selected", "control/labelled", "control/train")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config, and the directory of its campaign of two generations."""
    base = tmp_path_factory.mktemp("campaign")
    config = write_config(base / "learn.yaml", write_files(base))
    assert command("learn", "-c", config, "--directory", base / "run") == 0
    return config, base / "run"


def again(config: Path, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = command("learn", "-c", config, "--directory", directory)
    return status, capsys.readouterr().err


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_last_frame(path: Path) -> None:
    frames = ase.io.read(path, ":", format="extxyz")
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[: -len(frames[-1]) - 2]))


@pytest.mark.parametrize(
    ("name", "damage"), [*((name, empty) for name in STEPS), *((name, without_last_frame) for name in STEPS[1:4])]
)
def test_a_cut_file_of_a_step_stops_the_campaign_and_is_made_anew(finished, tmp_path, capsys, name, damage):
    config, whole = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "generation-02")  # not begun yet
    path = run / f"generation-01/{name}.extxyz"
    damage(path)
    status, errors = again(config, run, capsys)
    assert status == 1
    assert f"{path}: got a damaged file" in errors
    assert "Remove it, and the same command makes it anew." in errors
    assert not (run / "generation-02").exists()
    path.unlink()
    assert again(config, run, capsys)[0] == 0
    expected, found = answers(whole), answers(run)
    assert list(found) == list(expected)
    for key, values in expected.items():
        for one, other in zip(found[key], values, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("damage", [empty, without_last_frame], ids=["empty", "a frame short"])
def test_a_cut_exploration_stops_the_campaign_and_is_made_anew(finished, tmp_path, capsys, damage):
    config, whole = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "generation-02")
    for path in (run / "generation-01").glob("candidates.*"):
        path.unlink()
    path = run / "generation-01/explored/run-000.extxyz"
    damage(path)
    status, errors = again(config, run, capsys)
    assert status == 1
    assert f"{path}: got a damaged file" in errors
    assert "Remove run-000.extxyz and run-000.json there" in errors
    path.unlink()
    path.with_suffix(".json").unlink()
    assert again(config, run, capsys)[0] == 0
    assert [path.read_bytes() for path in sorted(run.rglob("candidates.extxyz"))] == [
        path.read_bytes() for path in sorted(whole.rglob("candidates.extxyz"))
    ]


def mutations(rng: np.random.Generator) -> dict[str, Callable[[bytes], bytes]]:
    def flipped(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    return {
        "empty": lambda data: b"",
        "cut": lambda data: data[: int(rng.integers(1, max(len(data), 2)))],
        "flipped": flipped,
        "binary": lambda data: rng.bytes(200),
        "null": lambda data: b"null\n",
        "list": lambda data: b"[]\n",
        "object": lambda data: b"{}\n",
    }


def check_mutants(
    run: Path, names: list[str], rng: np.random.Generator, work: Callable[[Path], tuple[int, str]]
) -> None:
    """Damage one file after the other: the work ends well, or with status 1 and one line that names a path."""
    for name in names:
        kind, change = list(mutations(rng).items())[rng.integers(7)]
        data = (run / name).read_bytes()
        (run / name).write_bytes(change(data))
        status, errors = work(run)
        (run / name).write_bytes(data)
        assert status in (0, 1), (name, kind)
        assert status == 0 or errors.strip().splitlines()[-1].startswith("error: "), (name, kind, errors)


def test_a_campaign_with_any_damaged_file_ends_in_words_or_as_it_was(finished, tmp_path, capsys, rng):
    config, whole = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in [*run.rglob("report.html"), run / "config.yaml", run / "lock"]:
        path.unlink()  # made anew, and read by nobody
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    chosen = [names[k] for k in rng.permutation(len(names))[:12]]
    check_mutants(run, chosen, rng, lambda directory: again(config, directory, capsys))


def structures() -> list:
    return [bulk("Ar", "fcc", a=5.0 + 0.1 * k) for k in range(3)]


def labelled_store(directory: Path) -> Store:
    label(structures(), LENNARD_JONES, ThreadPoolExecutor(1), directory)
    return Store(directory, LENNARD_JONES)


def test_a_label_under_the_name_of_another_structure_is_refused(tmp_path):
    labelled_store(tmp_path)
    one, two = (tmp_path / f"{identity(atoms)}.extxyz" for atoms in structures()[:2])
    shutil.copy(two, one)
    with pytest.raises(InputError, match=rf"{one.name}: got a damaged file \(its structure has the ID {two.stem}\)"):
        label(structures(), LENNARD_JONES, ThreadPoolExecutor(1), tmp_path)
    one.unlink()
    assert len(label(structures(), LENNARD_JONES, ThreadPoolExecutor(1), tmp_path).labelled) == 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "1\n",
        '1\nProperties=species:S:1:pos:R:3 pbc="T T T"\nAr 0.0 0.0 0.0\n',
        "two",
        "1\nProperties=species\nAr\n",
    ],
)
def test_an_empty_or_cut_label_is_refused_with_its_path_and_labelled_anew_once_removed(tmp_path, content):
    store = labelled_store(tmp_path)
    path = tmp_path / f"{identity(structures()[1])}.extxyz"
    energy = store.read(path.stem).info["REF_energy"]
    path.write_text(content)
    for work in (
        lambda: label(structures(), LENNARD_JONES, ThreadPoolExecutor(1), tmp_path),
        lambda: report(structures(), store),
    ):
        with pytest.raises(InputError, match=rf"{path.name}: got a damaged file .* the same command labels the frame"):
            work()
    path.unlink()
    label(structures(), LENNARD_JONES, ThreadPoolExecutor(1), tmp_path)
    assert store.read(path.stem).info["REF_energy"] == energy


@pytest.mark.parametrize("line", ["REF_energy=nan", "REF_energy=none", "label_method=m00000000000", ""])
def test_a_label_without_a_number_or_of_another_method_is_refused(tmp_path, line):
    store = labelled_store(tmp_path)
    path = tmp_path / f"{identity(structures()[1])}.extxyz"
    words = path.read_text().split()
    key = line.partition("=")[0] or "REF_energy"
    path.write_text(path.read_text().replace(next(word for word in words if word.startswith(f"{key}=")), line))
    with pytest.raises(InputError, match=rf"{path.name}: got a damaged file"):
        store.read(path.stem)


def test_a_damaged_method_record_is_told_and_labels_of_another_method_stay_refused_without_it(tmp_path):
    labelled_store(tmp_path)
    record = tmp_path / "method.json"
    for content in ("", "{", "[]", "null", "\udcff"):
        record.write_text(content, errors="surrogateescape")
        with pytest.raises(InputError, match=r"method\.json: got a damaged file .* their frames are checked"):
            Store(tmp_path, LENNARD_JONES)
    record.unlink()
    other = Calculated("ase.calculators.lj.LennardJones", {"epsilon": 2.0})
    with pytest.raises(InputError, match="label_method"):
        label(structures(), other, ThreadPoolExecutor(1), tmp_path)
    record.unlink()
    assert len(label(structures(), LENNARD_JONES, ThreadPoolExecutor(1), tmp_path).labelled) == 3


def test_a_store_with_any_damaged_file_ends_in_words_or_as_it_was(tmp_path, rng):
    store, odd = labelled_store(tmp_path), bulk("Ar", "fcc", a=3.0)
    store.put(identity(odd), odd, Outcome(None, ["a reason"], "printed", 1.0))
    every = [*structures(), odd]

    def work(directory: Path) -> tuple[int, str]:
        try:
            report(every, Store(directory, LENNARD_JONES))
            label(every[:3], LENNARD_JONES, ThreadPoolExecutor(1), directory)
        except InputError as error:
            return 1, f"error: {error}"
        return 0, ""

    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file())
    check_mutants(tmp_path, [names[k] for k in rng.integers(len(names), size=80)], rng, work)


def test_an_empty_file_of_a_campaign_of_an_earlier_version_is_no_frames_and_named(finished, tmp_path, capsys):
    config, whole = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in run.rglob("checksums.json"):
        path.unlink()
    (run / "generation-02/control/selected.extxyz").write_text("")
    status, errors = again(config, run, capsys)
    assert status == 0
    assert "control/selected.extxyz: empty and without a checksum" in errors


def test_parts_of_samples_that_were_cut_are_refused_and_made_anew(tmp_path, capsys):
    from .test_locks import sample_config

    arguments = sample_config(tmp_path, tmp_path / "out.extxyz")
    assert command(*arguments) == 0
    expected = (tmp_path / "out.extxyz").read_text()
    path = tmp_path / "out.extxyz.parts/00-0000.extxyz"
    for damaged in ("", expected[: len(expected) // 2]):
        path.write_text(damaged)
        assert command(*arguments) == 1
        assert "00-0000.extxyz: got a damaged file" in capsys.readouterr().err
    path.unlink()
    assert command(*arguments) == 0
    assert (tmp_path / "out.extxyz").read_text() == expected


def test_damaged_settings_of_a_simulation_are_told(tmp_path):
    from ..security.test_links import run

    run(tmp_path / "run")
    for content in ("", "[]", json.dumps({"seed": 0})[:-1]):
        (tmp_path / "run/settings.json").write_text(content)
        with pytest.raises(InputError, match=r"settings\.json: got a damaged file .* Take it from a copy"):
            run(tmp_path / "run")
