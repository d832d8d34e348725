"""Potentials for other programmes, with an input file that runs them."""

from finetune.exporting.lammps import lammps_input, some_structure

__all__ = ["lammps_input", "some_structure"]
