"""Potentials for other programmes, with an input file that runs them."""

from finetune.exporting.lammps import beside, lammps_input, some_structure

__all__ = ["beside", "lammps_input", "some_structure"]
