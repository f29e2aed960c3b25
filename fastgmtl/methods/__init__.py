"""Methods of graph multi-task learning, and the one loop that trains them."""

from fastgmtl.methods.auxiliary import GCS, GNS, Finetune, PCGrad, Sum
from fastgmtl.methods.baseline import constant_score
from fastgmtl.methods.bilevel import Bilevel, BilevelGNS, BilevelRCGrad
from fastgmtl.methods.experts import PLE, MMoE, MultiSFS
from fastgmtl.methods.gcnet.gcnet import GCNet
from fastgmtl.methods.gcnet.label_heads import LabelHeads
from fastgmtl.methods.gcnet.sgnn import SGNN
from fastgmtl.methods.gcnet.sgnn_ebm import SGNNEBM
from fastgmtl.methods.hgb import SharedHGB, SingleHGB
from fastgmtl.methods.hgt import SharedHGT, SingleHGT
from fastgmtl.methods.panel import Network, Panel, Plot
from fastgmtl.methods.parallel import MODES, Mode
from fastgmtl.methods.rcgrad import RCGrad
from fastgmtl.methods.same.baselines import Classical, FinetuneMulti, Single
from fastgmtl.methods.same.method import ESame, ISame, SameConcurrent
from fastgmtl.methods.self_tuning import SelfTuning
from fastgmtl.methods.shared import Shared
from fastgmtl.methods.star import Star
from fastgmtl.methods.struchis import StrucHIS
from fastgmtl.methods.training import Best, Diverged, Epoch, Method, TrainConfig, Trainer

METHODS: dict[str, type[Method]] = {
    "shared": Shared,
    "star": Star,
    "struchis": StrucHIS,
    "single-hgb": SingleHGB,
    "shared-hgb": SharedHGB,
    "single-hgt": SingleHGT,
    "shared-hgt": SharedHGT,
    "mmoe": MMoE,
    "ple": PLE,
    "multisfs": MultiSFS,
    "isame": ISame,
    "esame": ESame,
    "same-concurrent": SameConcurrent,
    "single": Single,
    "classical": Classical,
    "finetune-multi": FinetuneMulti,
    "finetune": Finetune,
    "mtl": Sum,
    "gcs": GCS,
    "gns": GNS,
    "pcgrad": PCGrad,
    "rcgrad": RCGrad,
    "blo": Bilevel,
    "blo+rcgrad": BilevelRCGrad,
    "blo+gns": BilevelGNS,
    "stn": SelfTuning,
    "labels": LabelHeads,
    "gcnet": GCNet,
    "sgnn": SGNN,
    "sgnn_ebm": SGNNEBM,
}

__all__ = [
    "METHODS",
    "MODES",
    "Best",
    "Diverged",
    "Epoch",
    "Method",
    "Mode",
    "Network",
    "Panel",
    "Plot",
    "Shared",
    "StrucHIS",
    "TrainConfig",
    "Trainer",
    "constant_score",
]
