"""Finds and loads the operators, torch.ops.weft.*."""

import os
import pathlib

import torch

NAME = "libweft_operators.so"


def _folder() -> pathlib.Path:
    """Where the library is: beside this file, or, in a source tree, in build/python. WEFT_LIBRARY names another folder."""
    here = pathlib.Path(__file__).resolve().parent
    given = os.environ.get("WEFT_LIBRARY")
    places = [pathlib.Path(given)] if given else [here, here.parents[1] / "build" / "python"]
    for place in places:
        if (place / NAME).exists():
            return place
    raise ImportError(f"weft: no {NAME} in {' or '.join(map(str, places))}; build it with make build, or pip install .")


def load() -> None:
    """Loads the operators once. Raises ImportError when they were built for another torch."""
    folder = _folder()
    built_for = (folder / "torch_version").read_text().strip()
    version = ".".join(torch.__version__.split(".")[:2])
    if version != built_for:
        raise ImportError(
            f"weft was built for torch {built_for}, and this is torch {torch.__version__}: its binary interface differs; "
            f"install torch {built_for}.*, or build weft anew with this torch (pip install --no-build-isolation .)")
    torch.ops.load_library(folder / NAME)


load()
