"""Data sets and task sets: graphs, features, labels with gaps, losses and metrics."""

from fastgmtl.data.dataset import Dataset
from fastgmtl.data.generate import synthetic
from fastgmtl.data.loading import load, names
from fastgmtl.data.metrics import METRICS
from fastgmtl.data.tasks import Task, TaskSet

__all__ = ["METRICS", "Dataset", "Task", "TaskSet", "load", "names", "synthetic"]
