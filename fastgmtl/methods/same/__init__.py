"""SAME: node embeddings for several tasks, meta-learned through single-task adaptation."""

from fastgmtl.methods.same.episodes import Episode, Graphs, episodes, tasks_of
from fastgmtl.methods.same.meta import meta_step
from fastgmtl.methods.same.model import Encoder, Model

__all__ = ["Encoder", "Episode", "Graphs", "Model", "episodes", "meta_step", "tasks_of"]
