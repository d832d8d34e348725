"""Labels that came in parts, as one file in the order of the structures that they are of.

    python notebooks/gather.py STRUCTURES.extxyz OUTPUT.extxyz LABELS.labels [LABELS.labels ...]

Of a structure that several directories hold the first counts; structures without a label are left out, and told.
"""

# %%
import sys
from pathlib import Path

import ase.io

from finetune.files import write_frames
from finetune.labelling.store import identity


# %%
def main() -> None:
    """Write the labelled frames."""
    structures, output, *directories = map(Path, sys.argv[1:])
    known = {}
    for directory in directories:
        for path in sorted(directory.glob("*.extxyz")):
            atoms = ase.io.read(path)
            known.setdefault(identity(atoms), atoms)
    wanted = [identity(atoms) for atoms in ase.io.read(structures, ":")]
    found = [known[name] for name in wanted if name in known]
    write_frames(output, found)
    print(f"{output}: {len(found)} of {len(wanted)} structures are labelled")


if __name__ == "__main__":
    main()
