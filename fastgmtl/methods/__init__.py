"""Methods of graph multi-task learning, and the one loop that trains them."""

from fastgmtl.methods.baseline import constant_score
from fastgmtl.methods.panel import Panel
from fastgmtl.methods.shared import Shared
from fastgmtl.methods.training import Best, Diverged, Epoch, Method, TrainConfig, Trainer

METHODS: dict[str, type[Method]] = {"shared": Shared}

__all__ = [
    "METHODS",
    "Best",
    "Diverged",
    "Epoch",
    "Method",
    "Panel",
    "Shared",
    "TrainConfig",
    "Trainer",
    "constant_score",
]
