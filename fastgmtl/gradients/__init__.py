"""Gradients of T tasks into one update: aggregators, and weighting of losses.

An aggregator is called with a tensor [T, P], T lists of tensors or N tensors [T, ...]; those that are functions of the
Gram matrix have ``weights(gram)``. Names and calls are those of TorchJD.
"""

from fastgmtl.gradients.base import Aggregator, GramAggregator
from fastgmtl.gradients.capture import Report, backward
from fastgmtl.gradients.conflict import GradVac, PCGrad
from fastgmtl.gradients.elementwise import GradDrop
from fastgmtl.gradients.gramian import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    NashMTL,
    UPGrad,
)
from fastgmtl.gradients.influence import Influence, influence
from fastgmtl.gradients.losses import DWA, FAMO, RLW, STCH, UW, GradNorm, LossWeighting
from fastgmtl.gradients.simple import Constant, Krum, Mean, Random, Sum
from fastgmtl.gradients.target import GCS, GNS, MetaBalance, RCGrad, TargetPCGrad

__all__ = [
    "DWA",
    "FAMO",
    "GCS",
    "GNS",
    "IMTLG",
    "MGDA",
    "RLW",
    "STCH",
    "UW",
    "Aggregator",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "Constant",
    "DualProj",
    "FairGrad",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GramAggregator",
    "Influence",
    "Krum",
    "LossWeighting",
    "Mean",
    "MetaBalance",
    "NashMTL",
    "PCGrad",
    "RCGrad",
    "Random",
    "Report",
    "Sum",
    "TargetPCGrad",
    "UPGrad",
    "backward",
    "influence",
]
