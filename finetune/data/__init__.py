"""Frames, their labels and batches: from files of atoms to what a potential is trained on."""
