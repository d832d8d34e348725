"""Assemble data/interface from the labelled frames of data/campaign: parts by group, and the manifest.

Run from the top of the repository when labels have come in:

    python notebooks/dataset.py runs/dataset      # look at it first; then give data/interface

The seed of the split is the smallest by which all planned structures, labelled yet or not, fall so that the parts have
about the wanted sizes in frames and groups, every part has at least 0.4 of its share of every family, a third or more
of the target interface's frames are in the test part and in the training part each, the crystals of Li, Li2S and Li3P
are learned from, and the test part has those of three other formulas or more: no error of any model is looked at, and
groups keep their part while labels come in. A group is a trajectory, or all that begins with one built interface or
packed cell; crystals of one formula are one. Frames with a force above 20 eV/Å, which no dynamics visits, are left out.
"""

# %%
import argparse
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ase.io
import yaml
from ase.formula import Formula

from finetune.data.frames import Frame, data_hash
from finetune.data.reading import read
from finetune.data.splitting import PARTS, split
from finetune.files import write_frames, write_text

PLANNED, LABELS = Path("data/campaign/structures"), Path("data/campaign/labels")
TEXTS = Path("data/campaign/texts.json")  # of the manifest
FRACTIONS = (0.70, 0.12, 0.18)
TOLERANCE = 0.03  # of the shares of frames and of groups in each part
LARGEST = 20.0  # force, eV/Å
FAIR = 0.4  # of its share of each family, at the least, has each part
CRYSTALS = 3  # formulas of them in the test part
END_PHASES = {"Li", "Li2S", "Li3P"}  # what is there in the end: always learned from
TARGETS = ("target:", "Li|Li7P3S11")  # groups of the target interface


# %%
def grouped(frame: Frame) -> Frame:
    """The frame in the group that it is divided by: crystals of the starting set join those of their formula."""
    kind, _, name = frame.atoms.info["group"].partition(":")
    if kind in ("crystal", "crystal_md"):
        group = Formula(name.split("_")[0]).reduce()[0].format("metal")
        frame.atoms.info["group"] = group
        return replace(frame, group=group)
    return frame


def fits(parts: tuple[list[Frame], ...]) -> bool:
    """Whether sizes are about right, families fairly shared, the end phases learned, the target learned and tested."""
    groups = [{frame.group for frame in part} for part in parts]
    sizes = all(
        abs(len(counted[k]) / sum(map(len, counted)) - share) < TOLERANCE
        for counted in (parts, groups)
        for k, share in enumerate(FRACTIONS)
    )
    families = [Counter(frame.family for frame in part) for part in parts]
    fair = all(
        count[family] >= FAIR * share * sum(other[family] for other in families)
        for family in set().union(*families)
        for count, share in zip(families, FRACTIONS, strict=True)
    )
    targets = [sum(frame.group.startswith(TARGETS) for frame in part) for part in parts]
    crystals = {frame.group for frame in parts[2] if frame.family == "crystal"}
    known = min(targets[0], targets[2]) >= sum(targets) / 3 and groups[0] >= END_PHASES
    return sizes and fair and known and len(crystals) >= CRYSTALS


def described(path: Path) -> dict[str, object]:
    """What the manifest says of a file."""
    frames = read(path)
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "frames": len(frames),
        "groups": len({frame.group for frame in frames}),
        "atoms": sum(len(frame.atoms) for frame in frames),
        "families": dict(sorted(Counter(frame.family for frame in frames).items())),
    }


def main() -> None:
    """Split, write, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="directory to write to")
    output = parser.parse_args().output
    frames = [grouped(frame) for frame in read(LABELS) if float(frame.labels.forces.norm(dim=1).max()) <= LARGEST]
    planned = [grouped(f) for path in sorted(PLANNED.glob("*.extxyz")) for f in read(path, labelled=False)]
    seed = next((s for s in range(100_000) if fits(split(planned, FRACTIONS, s))), None)
    if seed is None:
        groups = Counter(frame.group for frame in planned)
        raise SystemExit(f"no seed below 100000 divides {len(groups)} groups so; the largest: {groups.most_common(5)}")
    output.mkdir(parents=True, exist_ok=True)
    for part, members in zip(PARTS, split(frames, FRACTIONS, seed), strict=True):
        write_frames(output / f"{part}.extxyz", [frame.atoms for frame in members])
    [method] = {ase.io.read(LABELS / path.name, 0).info["label_method"] for path in LABELS.glob("*.extxyz")}
    manifest = json.loads(TEXTS.read_text())
    manifest |= {"frames": len(frames), "data_hash": data_hash(frames)}
    labeller = yaml.safe_load(Path("configs/label/gpaw.yaml").read_text())["labeller"]["init_args"]
    manifest["dft"] |= {"label_method": method, "settings": labeller}
    manifest["split"] |= {"fractions": list(FRACTIONS), "seed": seed}
    manifest["files"] = {f"{part}.extxyz": described(output / f"{part}.extxyz") for part in PARTS}
    write_text(output / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(frames)} frames, seed {seed}: " + json.dumps(manifest["files"], indent=1))


if __name__ == "__main__":
    main()
