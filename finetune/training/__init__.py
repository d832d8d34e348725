"""The one LightningModule, and the callbacks that make a run directory of a fit."""
