"""Active learning: explore, find structures that extrapolate, ask DFT for a few informative ones, fit again."""

from finetune.learning.campaign import Learning
from finetune.learning.exploration import Dynamics, Explorer, Pool
from finetune.learning.harvesting import Thresholds
from finetune.learning.refitting import Refit, Solved, Trained
from finetune.learning.selectors import KDPP, Batch, FarthestPoints, MaxVol, Random, Selector, Top
from finetune.learning.settings import Campaign
from finetune.learning.stopping import Stop
from finetune.learning.subcells import Cutter

__all__ = [
    "KDPP",
    "Batch",
    "Campaign",
    "Cutter",
    "Dynamics",
    "Explorer",
    "FarthestPoints",
    "Learning",
    "MaxVol",
    "Pool",
    "Random",
    "Refit",
    "Selector",
    "Solved",
    "Stop",
    "Thresholds",
    "Top",
    "Trained",
]
