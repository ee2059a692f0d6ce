#!/usr/bin/env python3
"""Writes docs/python-api.md, the reference of the Python package, from its signatures and docstrings.

usage: tools/python_api.py [--check]      with the package importable (PYTHONPATH=python, WEFT_LIBRARY=build/python)

--check: exit code 1 when the page is not what would be written.
"""

import importlib
import inspect
import pathlib
import sys

from torch.nn import Module

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python-api.md"
MODULES = ("weft", "weft.compat.ring_flash_attn", "weft.compat.yunchang")
HEAD = """# Python reference

Written by `tools/python_api.py` from the docstrings of the package; [python.md](python.md) explains it, [tutorial.md](tutorial.md) begins.
Tokens, heads and head dims are counts, times are seconds. `ValueError` and `TypeError` are for what was given, `RuntimeError` for what
happened.
"""


def short(annotation):
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for long, name in (("torch.distributed.", "dist."), ("collections.abc.", ""), ("typing.", "")):
        text = text.replace(long, name)
    return text


def signature(name, function, skip_self=False):
    """One line where it is short, else one for each parameter."""
    found = inspect.signature(function)
    words, keyword_only = [], False
    for i, p in enumerate(found.parameters.values()):
        if skip_self and i == 0:
            continue
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            words, keyword_only = [*words, "*"], True
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f" = {p.default!r}"
        words.append(f"{star}{p.name}: {short(p.annotation)}{default}")
    result = "" if found.return_annotation is found.empty else f" -> {short(found.return_annotation)}"
    line = f"{name}({', '.join(words)}){result}"
    return line if len(line) <= 120 else f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){result}"


def text_of(thing):
    return inspect.cleandoc(thing.__doc__ or "").strip()


def entry(title, code, text, source, level):
    lines = [f"{'#' * level} {title}", "", "```python", code, "```", ""]
    if text:
        lines += ["```text", text, "```", ""]
    if source:
        lines += [f"Source: [{source}](../{source})", ""]
    return lines


def source_of(thing):
    path = inspect.getsourcefile(thing)
    return str(pathlib.Path(path).resolve().relative_to(ROOT)) if path else ""


def members(cls):
    for name, thing in vars(cls).items():
        if name.startswith("_") and name != "__init__" or name == "__init__" and not issubclass(cls, Module):
            continue
        if isinstance(thing, property):
            yield name, f"{cls.__name__}.{name}: " + short(inspect.signature(thing.fget).return_annotation), text_of(thing)
        elif inspect.isfunction(thing):
            title = cls.__name__ if name == "__init__" else f"{cls.__name__}.{name}"
            yield name, signature(title, thing, True), text_of(thing)


def names_of(module):
    if hasattr(module, "__all__"):
        return sorted(module.__all__, key=str.lower)
    return [name for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__]


def module_lines(name):
    module = importlib.import_module(name)
    lines = [f"## {name}", "", "```text", text_of(module), "```", ""]
    for member in names_of(module):
        thing = getattr(module, member)
        if inspect.isclass(thing):
            lines += entry(member, f"class {member}", text_of(thing), source_of(thing), 3)
            for inner, code, text in members(thing):
                lines += entry(f"{member}.{inner}", code, text, "", 4)
        elif callable(thing):
            lines += entry(member, signature(member, thing), text_of(thing), source_of(thing), 3)
    return lines


def main():
    text = HEAD + "\n" + "\n".join(line for name in MODULES for line in module_lines(name)).rstrip() + "\n"
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.relative_to(ROOT)} is not what the docstrings say; run tools/python_api.py")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
