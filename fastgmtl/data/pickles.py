"""A reader of pickled arrays that runs nothing from the file.

Pickles name the functions that rebuild their contents. Here every such name is looked up in a short table, and what
is found there is made by us: it checks its arguments and builds a plain numpy array, a list or a dict. Any other name
is an error. Neither numpy's nor scipy's own reconstruction code is called.
"""

from __future__ import annotations

import collections
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgmtl.data.files import Array


@dataclass(frozen=True)
class Csr:
    """A sparse matrix as read: not checked beyond the kinds of its four arrays."""

    indptr: Array
    indices: Array
    data: Array
    shape: Array


def read_pickle(path: Path) -> Any:
    """The pickled numpy array, Csr, or dict of lists in the file.

    Raises FileNotFoundError, and ValueError, naming the file, for damaged bytes and for anything else in them.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file).load())
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged bytes make pickle raise nearly any type
        raise ValueError(f"{path}: not a readable pickle of arrays ({error})") from error


class _Reader(pickle.Unpickler):
    """Knows the names that the Planetoid files use, and gives this file's own stand-ins for them."""

    def __init__(self, file: Any) -> None:
        # Python 2 wrote bytes as its str; latin1 keeps every byte.
        super().__init__(file, encoding="latin1")

        # Made anew for each file: a pickle can set attributes of a class that it is given.
        class DType:
            def __init__(self, code: str, *_: object) -> None:
                if not re.fullmatch(r"[biuf][1248]", code):
                    raise pickle.UnpicklingError(f"arrays of type {code!r} are not allowed")
                self.value = np.dtype(code)

            def __setstate__(self, state: tuple[Any, ...]) -> None:
                if state[1] in ("<", ">"):
                    self.value = self.value.newbyteorder(state[1])

        class NDArray:
            value: Array

            def __setstate__(self, state: tuple[Any, ...]) -> None:
                _, shape, dtype, fortran, raw = state
                flat = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype.value)
                self.value = flat.reshape(shape, order="F" if fortran else "C")

        class Matrix:
            pass

        def rebuild(*_: object) -> NDArray:
            return NDArray()

        self.known: dict[tuple[str, str], Any] = {
            ("numpy", "dtype"): DType,
            ("numpy", "ndarray"): NDArray,
            ("numpy.core.multiarray", "_reconstruct"): rebuild,
            ("scipy.sparse.csr", "csr_matrix"): Matrix,
            ("collections", "defaultdict"): collections.defaultdict,
            ("__builtin__", "list"): list,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self.known[module, name]


def _plain(value: Any) -> Any:
    """The array or matrix that a stand-in holds; lists and dicts as they are."""
    if isinstance(value, dict | list):
        return value
    held = vars(value)
    if "value" in held:
        return held["value"]
    indptr, indices, data = (_plain(held[name]) for name in ("indptr", "indices", "data"))
    for part, kinds in ((indptr, "iu"), (indices, "iu"), (data, "iuf")):
        if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in kinds:
            raise pickle.UnpicklingError("a sparse matrix needs three arrays: integers, integers, numbers")
    return Csr(indptr, indices, data, np.array([int(v) for v in held["_shape"]], dtype=np.int64))
