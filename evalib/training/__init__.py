"""Training: `train` is the door; `pace` and `lr_range_test` try a few steps before.

`loop` is a run from start to end: resume, log, evaluate, save, stop. `learner` is a run at one
step, `samples` what it trains on, `heads` the layers that a phase trains, `session` one life of a
machine, `ranks` several processes that train as one. `contest` compares finished runs.
"""

from evalib.config import Config
from evalib.training import contest
from evalib.training.learner import Learner
from evalib.training.loop import train
from evalib.training.trial import lr_range_test, pace

__all__ = ["Config", "Learner", "contest", "lr_range_test", "pace", "train"]
