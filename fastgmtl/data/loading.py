"""load(): a data set by name or folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from fastgmtl.data.city import city_names, load_city
from fastgmtl.data.dataset import Dataset
from fastgmtl.data.dblp import is_dblp, load_dblp
from fastgmtl.data.debian import load_bookworm, load_debian
from fastgmtl.data.files import data_roots, find_folder
from fastgmtl.data.generate import synthetic
from fastgmtl.data.heco_acm import is_heco_acm, load_heco_acm
from fastgmtl.data.hgb import load_hgb
from fastgmtl.data.molecules import load_moleculenet, moleculenet_names
from fastgmtl.data.mtl import load_mtl, mtl_names
from fastgmtl.data.planetoid import load_planetoid, planetoid_names
from fastgmtl.data.scm import KINDS, scm
from fastgmtl.data.smiles import load_smiles
from fastgmtl.data.store import is_stored
from fastgmtl.data.stored import load_stored
from fastgmtl.data.tu import load_tu, tu_names

ALWAYS = ("debian", "synthetic", *(f"scm:{kind}" for kind in KINDS))


def names() -> list[str]:
    """Names that load() takes now: those that need no files, and those whose files are in the data roots."""
    found = list(ALWAYS)
    for root in data_roots():
        if _is_bookworm(root / "debian_bookworm"):
            found.append("debian_bookworm")
        if is_dblp(root / "dblp_struchis"):
            found.append("dblp")
        if is_heco_acm(root / "heco_acm"):
            found.append("heco_acm")
        found += [f"city:{name}" for name in city_names(root / "city_networks")]
        found += [f"moleculenet:{name}" for name in moleculenet_names(root / "moleculenet_graphs")]
        found += [f"mtl:{name}" for name in mtl_names(root / "mtl_classic")]
        found += [f"planetoid:{name}" for name in planetoid_names(root / "planetoid")]
        found += [f"tu:{name}" for name in _tu_members(root / "tu")]
    return list(dict.fromkeys(found))


def load(name: str | os.PathLike[str], seed: int = 0) -> Dataset:
    """The data set of that name, or in that folder.

    ``debian`` (comes with the package), ``synthetic``, ``scm:S1`` to ``scm:S4``, ``debian_bookworm``, ``dblp``,
    ``heco_acm``, ``city:NAME``, ``moleculenet:NAME``, ``mtl:NAME``, ``planetoid:NAME``, ``tu:NAME``, ``stored:DIR`` (a
    folder of ``data build``); or a folder with the files of one TU data set, of one Planetoid data set, of an HGB data
    set, or of debian_bookworm, dblp or heco_acm; or a CSV file of SMILES. ``seed`` chooses the splits that are random
    (TU, city, mtl, links, heco_acm, HGB's validation nodes, stored graphs without one) and what is synthetic; the
    others have a split of their own.

    Raises ValueError for an unknown name (with the nearest right ones) and for a damaged file, FileNotFoundError for
    absent data: what was looked for, and that FASTGMTL_DATA says where.
    """
    text = os.fspath(name)
    if text == "debian":
        return load_debian()
    if text == "synthetic":
        return synthetic(seed=seed)
    if text == "debian_bookworm":
        return load_bookworm(find_folder("debian_bookworm"))
    if text == "dblp":
        return load_dblp(find_folder("dblp_struchis"))
    if text == "heco_acm":
        return load_heco_acm(find_folder("heco_acm"), seed)
    family, colon, member = text.partition(":")
    if colon and family == "stored":
        return load_stored(Path(member), seed)
    if colon and family in ("tu", "planetoid", "moleculenet", "mtl", "city", "scm"):
        return _member(family, member, seed)
    if text.endswith((".csv", ".csv.gz")):
        return load_smiles(Path(text))
    if not isinstance(name, str) or os.sep in text or Path(text).is_dir():
        return _folder(Path(text), seed)
    raise ValueError(_unknown(text, names()))


def _member(family: str, member: str, seed: int) -> Dataset:
    if family == "scm":
        if member in KINDS:
            return scm(member, seed=seed)
        raise ValueError(_unknown(f"scm:{member}", [f"scm:{kind}" for kind in KINDS]))
    if family == "planetoid":
        folder = find_folder("planetoid")
        known = planetoid_names(folder)
        if member in known:
            return load_planetoid(folder, member, seed)
    elif family == "city":
        folder = find_folder("city_networks")
        known = city_names(folder)
        if member in known:
            return load_city(folder, member, seed)
    elif family == "moleculenet":
        folder = find_folder("moleculenet_graphs")
        known = moleculenet_names(folder)
        if member in known:
            return load_moleculenet(folder, member)
    elif family == "mtl":
        folder = find_folder("mtl_classic")
        known = mtl_names(folder)
        if member in known:
            return load_mtl(folder, member, seed)
    else:
        folder = find_folder("tu")
        known = _tu_members(folder)
        if member in known:
            return load_tu(folder / member, member, seed)
    text = _unknown(f"{family}:{member}", [f"{family}:{name}" for name in known])
    raise ValueError(f"{text}; looked for in {folder}, FASTGMTL_DATA names another place")


def _folder(folder: Path, seed: int) -> Dataset:
    if not folder.is_dir():
        raise FileNotFoundError(f"data: folder {folder} does not exist")
    if is_stored(folder):
        return load_stored(folder, seed)
    if _is_bookworm(folder):
        return load_bookworm(folder)
    if is_dblp(folder):
        return load_dblp(folder)
    if is_heco_acm(folder):
        return load_heco_acm(folder, seed)
    if (folder / "info.dat").exists() and (folder / "label.dat").exists():
        return load_hgb(folder, seed)
    tu, planetoid = tu_names(folder), planetoid_names(folder)
    if len(tu) + len(planetoid) > 1:
        raise ValueError(
            f"data: folder {folder} must hold one data set, got {', '.join(tu + planetoid)}; "
            "give each a folder of its own"
        )
    if tu:
        return load_tu(folder, tu[0], seed)
    if planetoid:
        return load_planetoid(folder, planetoid[0], seed)
    raise ValueError(
        f"data: folder {folder} holds no data set; required is NAME_A.txt with its companions (TU), NAME.npz or "
        "ind.NAME.* (Planetoid), info.dat, link.dat and label.dat with node.dat or meta.dat (HGB), or edges.npz, "
        "features.npz and tasks.npz (Debian)"
    )


def _tu_members(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.name in tu_names(path))


def _is_bookworm(folder: Path) -> bool:
    return all((folder / f"{part}.npz").exists() for part in ("edges", "features", "tasks"))


def _unknown(name: str, known: list[str]) -> str:
    # People leave out the family (ENZYMES) and the case (cora, Cora); both are compared away.
    plain = {n.lower(): n for n in known} | {n.lower().split(":")[-1]: n for n in known}
    near = difflib.get_close_matches(name.lower(), plain, n=6, cutoff=0.5)
    close = list(dict.fromkeys(plain[key] for key in near))[:3]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"data: {name!r} is no data set; {hint}known here: {', '.join(known)}, or a folder"
