"""A reader of MATLAB 5 files: numeric arrays and cells of them, nothing else."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from fastgmtl.data.files import Array, require

# Types of data elements and classes of arrays (MAT-File Format, tables 1-1 and 1-3), those that hold numbers.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_MATRIX, _COMPRESSED, _CELL, _COMPLEX = 14, 15, 1, 0x800
_HEADER = 128


def read_mat(path: Path) -> dict[str, Array | list[Array]]:
    """The variables of a MATLAB 5 file: numeric arrays, and cells of numeric arrays as lists in column order.

    Raises FileNotFoundError for a missing file and ValueError, naming the file, for a damaged one and for variables
    of other classes (structures, text, sparse and complex matrices).
    """
    data = path.read_bytes()
    fine = len(data) >= _HEADER and data[124:128] in (b"\x00\x01IM", b"\x01\x00MI")
    require(path, fine, "not a MATLAB 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    found: dict[str, Array | list[Array]] = {}
    for kind, body in _elements(path, data[_HEADER:], order):
        if kind == _COMPRESSED:
            try:
                ((kind, body),) = _elements(path, zlib.decompress(body), order)
            except zlib.error as error:
                raise ValueError(f"{path}: not readable ({error})") from error
        require(path, kind == _MATRIX, f"a variable must be an array, got element type {kind}")
        name, value = _array(path, body, order)
        found[name] = value
    return found


def _elements(path: Path, data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Type and content of the data elements that lie one after the other."""
    out, at = [], 0
    while at < len(data):
        require(path, at + 8 <= len(data), "an element is cut off")
        kind, size = struct.unpack_from(order + "II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes, in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        require(path, start + size <= len(data), "an element is cut off")
        out.append((kind, data[start : start + size]))
        at = start + 4 if start == at + 4 else start + size + (-size % 8 if kind != _COMPRESSED else 0)
    return out


def _array(path: Path, body: bytes, order: str) -> tuple[str, Array | list[Array]]:
    """Name and value of one array."""
    parts = _elements(path, body, order)
    require(path, len(parts) >= 3 and len(parts[0][1]) >= 4, "an array lacks its flags, sizes or name")
    (flags,) = struct.unpack_from(order + "I", parts[0][1])
    shape = tuple(np.frombuffer(parts[1][1], order + "i4").tolist()) if len(parts[1][1]) % 4 == 0 else ()
    require(path, len(shape) >= 2 and min(shape) >= 0, "an array has no sizes")
    name, kind = parts[2][1].decode("ascii", "replace"), flags & 0xFF
    if kind == _CELL:
        require(path, len(parts) - 3 == np.prod(shape), f"{name}: {len(parts) - 3} cells, sizes {shape}")
        cells = []
        for element, content in parts[3:]:
            require(path, element == _MATRIX, f"{name}: a cell must be an array, got element type {element}")
            value = _array(path, content, order)[1]
            require(path, not isinstance(value, list), f"{name}: a cell holds cells")
            assert not isinstance(value, list)
            cells.append(value)
        return name, cells
    fine = kind in _CLASSES and not flags & _COMPLEX and len(parts) == 4
    require(path, fine, f"{name}: class {kind} is none that is read here: real numeric arrays and cells of them")
    element, content = parts[3]
    require(path, element in _NUMBERS, f"{name}: element type {element} holds no numbers")
    values = np.dtype(order + _NUMBERS[element])
    count = int(np.prod(shape, dtype=np.float64))
    require(path, len(content) == count * values.itemsize, f"{name}: {len(content)} bytes for sizes {shape}")
    return name, np.frombuffer(content, values).reshape(shape, order="F").astype(_CLASSES[kind])
