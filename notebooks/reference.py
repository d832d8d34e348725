"""What data/reference is made of: structures for each config, and the manifest.

    python notebooks/reference.py parts eos.extxyz runs/reference   # equations of state, a file per config of labels
    python notebooks/reference.py manifest                          # data/reference/manifest.json

data/README.md has the commands between the two.
"""

# %%
import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path

import ase.io
import yaml

from finetune.files import write_frames, write_text

FOLDER = Path("data/reference")
DENSE, PLAIN, INSULATORS = "gpaw-dense", "gpaw", "gpaw-insulators"
CONFIGS = {"Li": DENSE, "Li2S": DENSE, "Li3P": DENSE, "LiP": DENSE, "Li3PS4": PLAIN, "Li2PS3": PLAIN}
CONFIGS["Li7P3S11"] = INSULATORS  # the formulas are reduced: Li2PS3 is Li4P2S6
FILES = {
    "equations-of-state.extxyz": CONFIGS,
    "relaxed.extxyz": CONFIGS,
    "pairs.extxyz": "gpaw-molecules",
    "atoms.extxyz": "gpaw-atoms",
    "dynamics.extxyz": "gpaw, with kpoints {length_A: 10.0, shift: 0.5} and no symmetry of points",
}


# %%
def parts(structures: Path, output: Path) -> None:
    """One file of structures per config."""
    frames = ase.io.read(structures, ":")
    for config in (DENSE, PLAIN, INSULATORS):
        chosen = [frame for frame in frames if CONFIGS[frame.info["group"]] == config]
        write_frames(output / f"{config}.extxyz", chosen)
        print(f"{output / config}.extxyz: {len(chosen)} structures")


def described(name: str) -> dict[str, object]:
    """What the manifest says of a file."""
    frames = ase.io.read(FOLDER / name, ":")
    methods = Counter(frame.info["label_method"] for frame in frames if "label_method" in frame.info)
    return {
        "sha256": hashlib.sha256((FOLDER / name).read_bytes()).hexdigest(),
        "frames": len(frames),
        "groups": dict(Counter(frame.info["group"] for frame in frames)),
        "config": FILES[name],
        "label_methods": dict(methods) or "none, written by a script with the settings of the config",
    }


def manifest() -> None:
    """Write the manifest: what all files share, and each file."""
    said = json.loads(Path("data/campaign/texts.json").read_text())
    shared = {key: said["dft"][key] for key in ("code", "functional", "basis", "smearing", "convergence")}
    shared["spin"] = "not polarised; pairs and atoms are, begun from the moments in their frames"
    shared["smearing"] += "; none in atoms, whose occupations are integer"
    text = {
        "name": "DFT references of the Li-P-S system",
        **{key: said[key] for key in ("licence", "attribution", "elements", "labels")},
        "dft": shared,
        "configs": {
            name: yaml.safe_load(Path(f"configs/label/{name}.yaml").read_text())["labeller"]["init_args"]
            for name in (DENSE, PLAIN, INSULATORS, "gpaw-molecules", "gpaw-atoms")
        },
        "files": {name: described(name) for name in FILES},
    }
    write_text(FOLDER / "manifest.json", json.dumps(text, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Part the structures, or describe the labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("parts")
    command.add_argument("structures", type=Path)
    command.add_argument("output", type=Path)
    commands.add_parser("manifest")
    options = parser.parse_args()
    if options.command == "manifest":
        manifest()
    else:
        options.output.mkdir(parents=True, exist_ok=True)
        parts(options.structures, options.output)


if __name__ == "__main__":
    main()
