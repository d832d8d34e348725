"""Assemble data/interface from the labelled frames of data/campaign: parts by group, and the manifest.

Run from the top of the repository when labels have come in:

    python notebooks/dataset.py runs/dataset      # look at it first; then give data/interface

The seed of the split is the smallest whose parts of all planned structures, labelled yet or not, have about the wanted
sizes in frames and groups, hold every family each, have a third or more of the target interface's frames in the test
part and in the training part each, and four groups of crystals or more in the test part: no error of any model is
looked at, and groups keep their part while labels come in. A group is a trajectory, or all that begins with one built
interface or glass; crystals of one formula are one. Frames with a force above 20 eV/Å, which no dynamics visits, are
left out.
"""

# %%
import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path

import ase.io
import yaml

from finetune.data.frames import Frame, data_hash
from finetune.data.reading import read
from finetune.data.splitting import PARTS, split
from finetune.files import write_frames, write_text

PLANNED, LABELS = Path("data/campaign/structures"), Path("data/campaign/labels")
TEXTS = Path("data/campaign/texts.json")  # of the manifest
FRACTIONS = (0.70, 0.12, 0.18)
TOLERANCE = 0.03  # of the shares of frames and of groups in each part
LARGEST = 20.0  # force, eV/Å
CRYSTALS = 4  # groups of them in the test part
TARGETS = ("target:", "Li|Li7P3S11")  # groups of the target interface


# %%
def fits(parts: tuple[list[Frame], ...], families: set[str]) -> bool:
    """Whether sizes are about right, every family is in every part, and the target is in training and test."""
    groups = [{frame.group for frame in part} for part in parts]
    sizes = all(
        abs(len(counted[k]) / sum(map(len, counted)) - share) < TOLERANCE
        for counted in (parts, groups)
        for k, share in enumerate(FRACTIONS)
    )
    everywhere = all({frame.family for frame in part} == families for part in parts)
    targets = [sum(frame.group.startswith(TARGETS) for frame in part) for part in parts]
    crystals = {frame.group for frame in parts[2] if frame.family == "crystal"}
    return sizes and everywhere and min(targets[0], targets[2]) >= sum(targets) / 3 and len(crystals) >= CRYSTALS


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
    frames = [frame for frame in read(LABELS) if float(frame.labels.forces.norm(dim=1).max()) <= LARGEST]
    planned = [frame for path in sorted(PLANNED.glob("*.extxyz")) for frame in read(path, labelled=False)]
    families = {frame.family for frame in planned}
    seed = next((s for s in range(100_000) if fits(split(planned, FRACTIONS, s), families)), None)
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
