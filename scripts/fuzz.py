"""Read mutated files of every format: each has to be read or refused in words, within a time limit.

    python scripts/fuzz.py --count 2000                      # all formats, some minutes; ends with a table
    python scripts/fuzz.py --count 200 --formats checkpoint --seed 7

A file is mutated by a few flipped bits, a cut, a block that is repeated, removed or overwritten, a number that becomes
huge, or settings of a checkpoint that are changed inside (its checksums made anew). File k of a format follows from the
seed, the format and k alone. Exit status 1 where a file gave a traceback, took longer than the limit, or changed
what a checksum covers in silence; such files are kept in the folder of `--keep`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import lzma
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch

from finetune import models
from finetune.checksums import CHECKSUM, checksum, read_tensors, write_tensors
from finetune.cli import main as command
from finetune.data.checking import check
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.data.structures import read_images
from finetune.errors import InputError
from finetune.md import state

ROOT = Path(__file__).parents[1]
SECONDS = 60
MEMORY = 12 * 2**30  # bytes of address space; what asks for more fails as on a small machine
HUGE = (b"99999999999", b"1e20", b"-1e300", b"2147483648", b"nan", b"")
STRANGE = (10**9, -1, 0, 1e300, float("nan"), None, "x", [], {}, [1] * 50)
TINY = {"n_conv": 2, "atom_fea_dim": 8, "bond_fea_dim": 8, "angle_fea_dim": 8, "mlp_hidden_dims": [8, 8]}


class TooLong(Exception):
    """The time limit of one file."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: of the format.
        sound: the sound file.
        use: reads the file, and returns what its checksum covers, or None.
        inside: changes a checkpoint inside; None for formats without.
    """

    name: str
    sound: Path
    use: Callable[[Path], Any]
    inside: Callable[[Path, Path, np.random.Generator], None] | None = None


def structures(path: Path) -> None:
    """Read a file of structures, and check them as a fit does."""
    if path.suffix == ".extxyz" or "vasprun" in path.name or "OUTCAR" in path.name:
        check(read([str(path)]))
        return
    frames = [Frame(atoms, {}, str(path), k, "x", "x") for k, atoms in read_images(path)]
    check(frames, labelled=False)


def checkpoint(path: Path) -> Any:
    """Load a model, and return its weights."""
    return dict(models.load(str(path)).state_dict())


def config(*arguments: str, parsed: bool = False) -> Callable[[Path], None]:
    """A function that runs a command with a config, and files that are missing; `{folder}` is that of the config.

    Args:
        arguments: of the command; the config comes behind the first one.
        parsed: status 0 is right, since the command only parses.
    """

    def use(path: Path) -> None:
        given = [word.format(folder=path.parent) for word in arguments]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                status = command([given[0], "-c", str(path), *given[1:]])
            except SystemExit as stop:
                status = int(stop.code or 0)
        if status:
            raise InputError(out.getvalue())
        if not parsed:
            raise RuntimeError("a command without its files ended with status 0")

    return use


def changed_inside(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Write a checkpoint with one value changed somewhere, and sound checksums."""
    content = copy.deepcopy({key: value for key, value in read_tensors(source).items() if key != CHECKSUM})
    places = list(_places(content))
    parent, key = places[rng.integers(len(places))]
    if rng.random() < 0.2 and isinstance(parent, dict):
        del parent[key]
    elif isinstance(parent[key], torch.Tensor) and rng.random() < 0.5:
        parent[key] = torch.zeros(3, 1)
    else:
        parent[key] = STRANGE[rng.integers(len(STRANGE))]
    write_tensors(content, target)


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in nested plain data."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in list(keys):
        yield content, key
        yield from _places(content[key])


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to three faults."""
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return data
        kind, start = int(rng.integers(7)), int(rng.integers(len(data)))
        size = int(rng.integers(1, 1 + min(200, len(data))))
        if kind == 0:
            changed = bytearray(data)
            changed[start] ^= 1 << int(rng.integers(8))
            data = bytes(changed)
        elif kind == 1:
            data = data[:start]
        elif kind == 2:
            data = data[:start] + data[start + size :]
        elif kind == 3:
            data = data[: start + size] + data[start:]
        elif kind == 4:
            data = data[:start] + rng.bytes(size) + data[start + size :]
        else:
            numbers = list(re.finditer(rb"[-+]?\d+(?:\.\d+)?", data))
            if numbers:
                found = numbers[rng.integers(len(numbers))]
                data = data[: found.start()] + HUGE[rng.integers(len(HUGE))] + data[found.end() :]
    return data


def formats(folder: Path) -> list[Format]:
    """A small sound file of each format, written into a folder."""
    frames = ase.io.read(ROOT / "data/starting/test.extxyz", ":3")
    plain = [atoms.copy() for atoms in frames]
    for name in ("frames.extxyz", "frames.xyz", "frames.extxyz.gz"):
        ase.io.write(folder / name, frames, format="extxyz")
    for name, kind in (("cell.cif", "cif"), ("POSCAR", "vasp")):
        ase.io.write(folder / name, plain[0], format=kind)
    for name in ("frames.traj", "frames.db"):
        ase.io.write(folder / name, plain)
    for name in ("vasprun_unconverged.xml", "vasprun_run.xml", "OUTCAR_train"):
        (folder / name).write_bytes(lzma.decompress((ROOT / "tests/cases" / f"{name}.xz").read_bytes()))
    names = sorted(path.name for path in folder.iterdir())
    found = [Format(name, folder / name, structures) for name in names]
    model = models.build(
        {"class_path": "finetune.backbones.chgnet.CHGNet", "init_args": {"foundation": None, "architecture": TINY}}
    )
    models.save(model, folder / "model.pt")
    state.write(folder / "state.npz", state.arrays_of(plain[0]), {"step": 7})
    configs = {
        "md.yaml": ("md/li-li7p3s11.yaml", config("md", "--structure", "missing.cif")),
        "fit.yaml": (
            "base.yaml",
            config("fit", "--data.train", "missing.xyz", "--trainer.default_root_dir", "{folder}/f"),
        ),
        "learn.yaml": ("learn/teacher.yaml", config("learn", "--train", "missing.xyz", "--directory", "{folder}/l")),
        "label.yaml": ("label/gpaw-training.yaml", config("label", "missing.xyz", "--output", "{folder}/o.extxyz")),
        "sample.yaml": ("sample/glasses.yaml", config("sample", "--print_config", parsed=True)),
    }
    for name, (source, _) in configs.items():
        (folder / name).write_bytes((ROOT / "configs" / source).read_bytes())
    return [
        *found,
        Format("checkpoint", folder / "model.pt", checkpoint),
        Format("checkpoint inside", folder / "model.pt", lambda path: checkpoint(path) and None, changed_inside),
        Format("MD state", folder / "state.npz", lambda path: state.read(path)[0]),
        *(Format(name, folder / name, use) for name, (_, use) in configs.items()),
    ]


def outcome(kind: Format, path: Path, expected: Any) -> str:
    """`read`, `refused`, or the fault that a mutated file shows."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = kind.use(path)
    except InputError as error:
        return "refused" if str(error).strip() and "Traceback" not in str(error) else "no words"
    except TooLong:
        return "hang"
    except Exception:  # noqa: BLE001  a traceback is what is looked for
        traceback.print_exc()
        return "traceback"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "silent change" if content is not None and checksum(content) != expected else "read"


def fuzz(count: int, seed: int, only: list[str] | None, keep: Path | None) -> Counter[tuple[str, str]]:
    """Outcomes of `count` mutated files, in turn of all formats."""

    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    counts: Counter[tuple[str, str]] = Counter()
    shown = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sound").mkdir()
        kinds = [kind for kind in formats(folder / "sound") if only is None or kind.name in only]
        expected = [checksum(kind.use(kind.sound)) if kind.name in ("checkpoint", "MD state") else "" for kind in kinds]
        for k in range(count):
            place = k % len(kinds)
            kind, number = kinds[place], k // len(kinds)
            rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), number])
            path = folder / kind.sound.name
            if kind.inside is not None:
                kind.inside(kind.sound, path, rng)
            else:
                path.write_bytes(mutated(kind.sound.read_bytes(), rng))
            found = outcome(kind, path, expected[place])
            counts[kind.name, found] += 1
            if found not in ("read", "refused") and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{found.replace(' ', '-')}-{number}-{path.name}").write_bytes(path.read_bytes())
            path.unlink()
            if time.monotonic() - shown > 20:
                shown = time.monotonic()
                print(f"fuzz: {k + 1} of {count} files", file=sys.stderr, flush=True)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, and print a table of outcomes by format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+")
    parser.add_argument("--keep", type=Path, help="folder for files with faults")
    options = parser.parse_args(arguments)
    counts = fuzz(options.count, options.seed, options.formats, options.keep)
    columns = ("read", "refused", "traceback", "hang", "silent change", "no words")
    print(f"{'format':<26}" + "".join(f"{column:>15}" for column in columns))
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"{name:<26}" + "".join(f"{counts[name, column]:>15}" for column in columns))
    totals = [sum(n for (_, found), n in counts.items() if found == column) for column in columns]
    print(f"{'all':<26}" + "".join(f"{total:>15}" for total in totals))
    return int(any(totals[2:]))


if __name__ == "__main__":
    sys.exit(main())
