"""fastgmtl: graph multi-task learning, T tasks over one graph in one pass."""

from fastgmtl import gradients, nn, ops, reference
from fastgmtl.accelerate import accelerate_, deaccelerate_
from fastgmtl.backend import FastgmtlWarning, use_backend
from fastgmtl.gradients import backward
from fastgmtl.graph import Graph
from fastgmtl.hetero import HeteroGraph
from fastgmtl.info import info

__version__ = "0.1.0"
__all__ = [
    "FastgmtlWarning",
    "Graph",
    "HeteroGraph",
    "accelerate_",
    "backward",
    "deaccelerate_",
    "gradients",
    "info",
    "nn",
    "ops",
    "reference",
    "use_backend",
]
