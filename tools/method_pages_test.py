#!/usr/bin/env python3
"""tools/method_pages.py must bring pages up to date, accept them then, and name every page that is not."""

import contextlib
import io
import json
import os
import subprocess
import tempfile
import unittest
import unittest.mock

import method_pages

METHOD = {"family": "softmax", "masks": "full", "needs": "ranks", "backward": True, "paper": "A 2023, arXiv 2310.01889"}
STRIDE = {"name": "stride", "type": "integer", "default": "1", "allowed": ["auto"], "min": 1, "max": 9, "meaning": "heads"}


class Stand(method_pages.Program):
    """Stands in for the program: two methods, whose answers depend on the arguments and on a factor."""

    factor = 1

    def run(self, command, name, *given):
        names = [word for word in given if word.startswith("--")]
        if len(set(names)) != len(names):
            raise subprocess.CalledProcessError(2, [command, name, *given], "", "given twice")
        if command == "methods":
            return json.dumps([{**METHOD, "name": "ring", "options": []}, {**METHOD, "name": "fan", "options": [STRIDE]}])
        if command == "show":
            with open(given[given.index("--svg") + 1], "w", encoding="utf-8") as file:
                file.write(f"<svg>{name} {self.factor} {given[:2]}</svg>")
            return ""
        sent = self.factor * 2**20 * (2 if "--option" in given else 1)
        phase = {"steps": 2, "bytes": {"total": sent // 2}}
        return json.dumps({"formula": {"exact": True} if name == "ring" else None,
                           "counted": {"forward": phase, "backward": phase}, "ranks": [
            {"work": 3, "work_backward": 3, "bytes_sent": sent, "messages": 5, "live_bytes": 2**20},
            {"work": 1, "work_backward": 1, "bytes_sent": 0, "messages": 7, "live_bytes": 2**21}]})


class MethodPages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.factor = 1
        self.write("docs/methods/README.md", "<!-- generated: overview -->\n<!-- end -->\n")

    def write(self, path, text):
        os.makedirs(os.path.dirname(os.path.join(self.root, path)) or self.root, exist_ok=True)
        with open(os.path.join(self.root, path), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            return file.read()

    def replace(self, path, old, new):
        text = self.read(path)
        self.assertIn(old, text)
        self.write(path, text.replace(old, new))

    def tool(self, *arguments):
        """Exit code and output."""
        output = io.StringIO()
        with unittest.mock.patch.object(Stand, "factor", self.factor), \
                unittest.mock.patch.object(method_pages, "Program", Stand), contextlib.redirect_stdout(output):
            return method_pages.main(["weft", "--root", self.root, *arguments]), output.getvalue()

    def finished(self):
        """Pages with prose, up to date."""
        self.tool()
        for name in ("ring", "fan"):
            self.replace(f"docs/methods/{name}.md", "(to be written)", "Prose.")
        self.assertEqual(self.tool("--check"), (0, ""))

    def refuses(self, *expected):
        code, output = self.tool("--check")
        self.assertEqual(code, 1, output)
        for line in expected:
            self.assertIn(f"refused: {line}\n", output)
        self.assertEqual(output.count("refused: "), len(expected), output)

    def test_new_pages_ask_for_prose(self):
        code, output = self.tool()
        self.assertEqual(code, 1)
        self.assertIn("docs/methods/ring.md: its prose is to be written", output)
        self.refuses("docs/methods/ring.md: its prose is to be written", "docs/methods/fan.md: its prose is to be written")

    def test_generated_parts(self):
        self.finished()
        page = self.read("docs/methods/fan.md")
        self.assertIn("| `stride` | `auto`, 1 to 9 | `1` | heads |", page)
        self.assertIn("| 16K tokens, 8 kv heads | default | 2 + 2 | 0.5 | 0.5 | 1.0 | 7 | 2.0 | 1.500 | none |", page)
        self.assertIn("[arXiv 2310.01889](https://arxiv.org/abs/2310.01889)", page)
        self.assertIn("![fan, drawn](../pictures/methods/fan.svg)", page)
        self.assertIn("\nNone.\n", self.read("docs/methods/ring.md"))
        self.assertIn("| [fan](fan.md) | 2 + 2 | 0.5 | 0.5 | 1.0 | 7 | 2.0 | 1.500 | none |", self.read("docs/methods/README.md"))

    def test_words_make_rows_and_pictures(self):
        self.finished()
        self.replace("docs/methods/fan.md", "generated: counts -->", "generated: counts ; option=stride=2 -->")
        self.replace("docs/methods/fan.md", "ranks=4", "ranks=5")
        self.refuses("docs/methods/fan.md: stale", "docs/pictures/methods/fan.svg: stale")
        self.assertEqual(self.tool()[0], 0)
        self.assertIn("| 16K tokens, 8 kv heads | `--option stride=2` | 2 + 2 | 1.0 |", self.read("docs/methods/fan.md"))
        self.assertIn("('--ranks', '5')", self.read("docs/pictures/methods/fan.svg"))
        self.replace("docs/methods/fan.md", "<!-- generated: options", "<!-- generated: rows ring mask=full -->\n<!-- end -->\n"
                     "<!-- generated: options")
        self.assertEqual(self.tool()[0], 0)
        self.assertIn("| `ring --mask full` | 2 + 2 | 0.5 | 0.5 | 1.0 | 7 |", self.read("docs/methods/fan.md"))
        self.assertEqual(self.tool("--check"), (0, ""))

    def test_refuses_what_is_stale(self):
        self.finished()
        self.replace("docs/methods/ring.md", "| 1.500 |", "| 1.400 |")
        self.refuses("docs/methods/ring.md: stale")
        self.assertIn("1.400", self.read("docs/methods/ring.md"))
        self.assertEqual(self.tool()[0], 0)
        self.write("docs/pictures/methods/ring.svg", "<svg/>")
        self.refuses("docs/pictures/methods/ring.svg: stale")
        self.assertEqual(self.tool()[0], 0)
        self.factor = 2
        self.refuses(*[f"docs/{path}: stale" for path in (
            "methods/ring.md", "methods/fan.md", "methods/README.md", "pictures/methods/ring.svg", "pictures/methods/fan.svg")])

    def test_refuses_what_is_missing_or_too_much(self):
        self.finished()
        os.remove(os.path.join(self.root, "docs/methods/fan.md"))
        self.refuses("docs/methods/fan.md: missing")
        self.assertEqual(self.tool()[0], 1)
        self.replace("docs/methods/fan.md", "(to be written)", "Prose.")
        self.write("docs/methods/gone.md", "# gone\n")
        self.refuses("docs/methods/gone.md: no method is called so")

    def test_tells_what_the_program_refuses(self):
        self.finished()
        self.replace("docs/methods/ring.md", "ranks=4", "ranks=4 ranks=5")
        code, output = self.tool()
        self.assertEqual(code, 1)
        self.assertIn("refused: show ring --ranks 4 --ranks 5", output)
        self.assertIn("given twice", output)

    def test_refuses_pages_that_are_not_whole(self):
        self.finished()
        self.replace("docs/methods/ring.md", "## When to use it", "## When")
        self.refuses("docs/methods/ring.md: no section 'When to use it'")
        self.replace("docs/methods/ring.md", "## When", "## When to use it")
        self.replace("docs/methods/ring.md", "generated: options", "generated: optoins")
        self.refuses("docs/methods/ring.md: no generated part is called optoins",
                     "docs/methods/ring.md: no generated part 'options'")
        self.replace("docs/methods/ring.md", "generated: optoins", "generated: options")
        text = self.read("docs/methods/ring.md")
        self.write("docs/methods/ring.md", text[:text.rindex("<!-- end -->")])
        self.refuses("docs/methods/ring.md: a generated part without an end")


if __name__ == "__main__":
    unittest.main()
