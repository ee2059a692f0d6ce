#!/usr/bin/env python3
"""Writes the generated parts of docs/methods: pictures, options and counts, from what the program says.

usage: tools/method_pages.py build/weft [--check] [--root DIR]

A page is prose with generated parts between markers, each on lines of its own:

    <!-- generated: KIND WORDS -->
    ...
    <!-- end -->

  picture WORDS       weft show with these words, into docs/pictures/methods/NAME.svg
  options             the method's options
  counts WORDS; ...   weft verify on the standard problems; again for each list of words after a semicolon
  rows METHOD WORDS; ...  weft verify of these methods, on a problem that the words change
  reference           masks, needs and paper
  overview            (README.md only) all methods on the standard problems

A word a=b stands for --a b, a word a for --a: "ranks=4 backward option=nodes=2". A method without a page gets one whose
prose says "to be written". With --check nothing is written. Exit code 1 if a page is unfinished, or with --check missing or
stale: each is named on stdout.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

PAGES, PICTURES = "docs/methods", "docs/pictures/methods"
PART = re.compile(r"(<!-- generated: *(\w+) *(.*?) *-->\n)(.*?)(<!-- end -->)", re.DOTALL)
UNFINISHED = "to be written"
# One causal problem with few and with as many kv heads, and packed documents of the same total.
COMMON = "ranks=8 mask=causal heads=32 head-dim=128 dtype=bf16 backward"
PROBLEMS = [
    ("16K tokens, 8 kv heads", "tokens=16K kv-heads=8"),
    ("16K tokens, 32 kv heads", "tokens=16K kv-heads=32"),
    ("documents, 8 kv heads", "docs=6000,4000,2500,1500,1000,700,400,200,84 kv-heads=8"),
]
COLUMNS = ["steps", "all send forward, MiB", "backward", "a rank sends", "messages of a rank", "live MiB", "work", "closed form"]
PARTS = ["picture", "options", "counts", "reference"]
HEADINGS = ["Options", "What it sends", "When to use it", "The paper and published code", "Restrictions and reference"]


def arguments_of(words):
    """The command line that words stand for: a=b is --a b."""
    return [part for word in words.split() for part in ("--" + word).split("=", 1)]


def changed(words, changes):
    """The words of both, without those of the first that the second gives anew."""
    given = {word.split("=")[0] for word in changes.split()} - {"option"}
    return " ".join([word for word in words.split() if word.split("=")[0] not in given] + changes.split())


class Program:
    """The weft program; throws CalledProcessError with its message."""

    def __init__(self, path):
        self.path = os.path.abspath(path)
        self.counted = {}

    def run(self, *arguments):
        return subprocess.run([self.path, *arguments], check=True, capture_output=True, text=True).stdout

    def methods(self):
        """Those of softmax attention; linear layers have a page of their own, docs/linear.md."""
        return [method for method in json.loads(self.run("methods", "--json")) if method["family"] == "softmax"]

    def picture(self, name, words):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "picture.svg")
            self.run("show", name, *arguments_of(words), "--svg", path)
            with open(path, encoding="utf-8") as file:
                return file.read()

    def counts(self, name, words):
        """Cells of the columns for a problem given by words."""
        key = (name, words)
        if key not in self.counted:
            proof = json.loads(self.run("verify", name, *arguments_of(changed(COMMON, words)), "--json"))
            ranks, formula = proof["ranks"], proof["formula"]
            forward, backward = proof["counted"]["forward"], proof["counted"]["backward"]
            work = [r["work"] + r["work_backward"] for r in ranks]
            sent, messages, live = ([r[field] for r in ranks] for field in ("bytes_sent", "messages", "live_bytes"))
            self.counted[key] = [f"{forward['steps']} + {backward['steps']}", mebibytes(forward["bytes"]["total"]),
                                 mebibytes(backward["bytes"]["total"]), mebibytes(max(sent)), str(max(messages)),
                                 mebibytes(max(live)), f"{max(work) * len(work) / sum(work):.3f}",
                                 "none" if formula is None else "exact" if formula["exact"] else "near"]
        return self.counted[key]


def mebibytes(count):
    return f"{count / 2**20:,.1f}"


def table(head, rows):
    lines = [head, ["---"] * len(head)] + rows
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def options_part(program, method, words):
    if not method["options"]:
        return "None.\n"
    rows = []
    for option in method["options"]:
        values = [f"`{value}`" for value in option["allowed"]]
        if option["type"] == "integer":
            values.append(f"{option['min']} to {option['max']}")
        rows.append([f"`{option['name']}`", ", ".join(values), f"`{option['default']}`", option["meaning"]])
    return "Each is given as `--option NAME=VALUE`.\n\n" + table(["name", "values", "default", "meaning"], rows)


def counts_part(program, method, words):
    rows = []
    for variant in [part.strip() for part in words.split(";")]:
        shown = f"`{' '.join(arguments_of(variant))}`" if variant else "default"
        rows += [[problem, shown] + program.counts(method["name"], f"{of_problem} {variant}")
                 for problem, of_problem in PROBLEMS]
    return table(["problem", "options"] + COLUMNS, rows)


def rows_part(program, method, words):
    rows = []
    for row in words.split(";"):
        name, _, changes = row.strip().partition(" ")
        rows.append([f"`{' '.join([name] + arguments_of(changes))}`"] + program.counts(name, changes))
    return table(["method and options"] + COLUMNS, rows)


def overview_part(program, methods, words):
    parts = []
    for problem, of_problem in PROBLEMS:
        rows = [[f"[{m['name']}]({m['name']}.md)"] + program.counts(m["name"], of_problem) for m in methods]
        command = " ".join(["weft verify METHOD"] + arguments_of(f"{COMMON} {of_problem}"))
        parts.append(f"{problem}: `{command}`\n\n" + table(["method"] + COLUMNS, rows))
    return "\n".join(parts)


def reference_part(program, method, words):
    paper = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", method["paper"])
    alias = f"- an alias of: [{method['alias_of']}]({method['alias_of']}.md)\n" if method.get("alias_of") else ""
    return (f"{alias}- masks: {method['masks']}\n- needs: {method['needs']}\n"
            f"- backward: {'yes' if method['backward'] else 'no'}\n- reference: {paper}\n")


def new_page(method):
    name = method["name"]
    prose = f"({UNFINISHED})\n"
    return f"""# {name}

{prose}
<!-- generated: picture ranks=4 tokens=4096 backward -->
<!-- end -->

## Options

<!-- generated: options -->
<!-- end -->

## What it sends

{prose}
<!-- generated: counts -->
<!-- end -->

## When to use it

{prose}
## The paper and published code

{prose}
## Restrictions and reference

<!-- generated: reference -->
<!-- end -->
"""


class Pages:
    """Brings the files under `root` up to date, or says which are not."""

    def __init__(self, root, program, check):
        self.root, self.program, self.check = root, program, check
        self.methods = program.methods()
        self.refused = []

    def read(self, path):
        try:
            with open(os.path.join(self.root, path), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def settle(self, path, text):
        """What the file must hold."""
        now = self.read(path)
        if now == text:
            return
        if self.check:
            self.refused.append(f"{path}: {'missing' if now is None else 'stale'}")
            return
        os.makedirs(os.path.dirname(os.path.join(self.root, path)), exist_ok=True)
        with open(os.path.join(self.root, path), "w", encoding="utf-8") as file:
            file.write(text)
        print("wrote", path)

    def picture_part(self, program, method, words):
        name = method["name"]
        path = f"{PICTURES}/{name}.svg"
        self.settle(path, program.picture(name, words))
        command = " ".join(["weft show", name] + arguments_of(words) + ["--svg", f"{name}.svg"])
        return f"![{name}, drawn]({os.path.relpath(path, PAGES)})\n\n*`{command}`*\n"

    def page(self, path, subject, kinds, parts, new=None, headings=()):
        """Fills the generated parts of one page about `subject`; a missing page begins as `new`."""
        text = self.read(path)
        if text is None:
            if self.check or new is None:
                self.refused.append(f"{path}: missing")
                return
            text = new

        def written(match):
            begin, kind, words, _, end = match.groups()
            if kind not in kinds:
                self.refused.append(f"{path}: no generated part is called {kind}")
                return match.group(0)
            return begin + "\n" + kinds[kind](self.program, subject, words) + "\n" + end

        if text.count("<!-- generated:") != len(PART.findall(text)):
            self.refused.append(f"{path}: a generated part without an end")
            return
        self.settle(path, PART.sub(written, text))
        if UNFINISHED in text:
            self.refused.append(f"{path}: its prose is {UNFINISHED}")
        self.refused += [f"{path}: no section '{h}'" for h in headings if f"\n## {h}\n" not in text]
        present = {match.group(2) for match in PART.finditer(text)}
        self.refused += [f"{path}: no generated part '{kind}'" for kind in parts if kind not in present]

    def all(self):
        kinds = {"picture": self.picture_part, "options": options_part, "counts": counts_part, "rows": rows_part,
                 "reference": reference_part}
        for method in self.methods:
            self.page(f"{PAGES}/{method['name']}.md", method, kinds, PARTS, new_page(method), HEADINGS)
        self.page(f"{PAGES}/README.md", self.methods, {"overview": overview_part}, ["overview"])
        names = {method["name"] for method in self.methods}
        for folder, suffix, others in ((PAGES, ".md", {"README"}), (PICTURES, ".svg", set())):
            for file in sorted(os.listdir(os.path.join(self.root, folder))):
                if os.path.splitext(file)[0] not in names | others or not file.endswith(suffix):
                    self.refused.append(f"{folder}/{file}: no method is called so")
        return self.refused


def main(arguments=None):
    parser = argparse.ArgumentParser(description="writes the generated parts of docs/methods, or checks them")
    parser.add_argument("weft", help="the program")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is not up to date")
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    arguments = parser.parse_args(arguments)
    try:
        refused = Pages(os.path.abspath(arguments.root), Program(arguments.weft), arguments.check).all()
    except subprocess.CalledProcessError as error:
        print(f"refused: {' '.join(error.cmd)}\n{error.stderr}{error.stdout}", end="")
        return 1
    for line in refused:
        print("refused:", line)
    if refused and arguments.check:
        print("run tools/method_pages.py build/weft, read what it changed, and commit it")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
