"""One model on several processes: a graph in parts with the rows of neighbours exchanged, sums over ranks.

The processes are those of ``torch.distributed``, on gloo or nccl. The loss is the sum of the losses of all ranks.
"""

from fastgmtl.distributed.exchange import all_reduce, exchange
from fastgmtl.distributed.layers import BatchNorm1d, Dropout, convert, convert_batch_norm
from fastgmtl.distributed.part import Part
from fastgmtl.distributed.partition import partition
from fastgmtl.distributed.tasks import share
from fastgmtl.distributed.world import Led, Lost, World, follows, is_launched, join, leave, lost, of_group

__all__ = [
    "BatchNorm1d",
    "Dropout",
    "Led",
    "Lost",
    "Part",
    "World",
    "all_reduce",
    "convert",
    "convert_batch_norm",
    "exchange",
    "follows",
    "is_launched",
    "join",
    "leave",
    "lost",
    "of_group",
    "partition",
    "share",
]
