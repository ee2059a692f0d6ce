#!/usr/bin/env python3
"""tools/presubmit must accept a clean tree and refuse every kind of bad file."""

import os
import subprocess
import sys
import tempfile
import unittest

PRESUBMIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presubmit")
CLEAN = {
    "LICENSE": "Apache License\n",
    "weft/base/error.h": "#pragma once\n",
    "weft/mask/band.cc": '#include <vector>\n\n#include "weft/base/error.h"\n',
    "weft/torch/ops.cc": "#include <torch/torch.h>\n",
    "weft/schedule/json_read.cc": "#include <nlohmann/json.hpp>\n",
    "cli/parse.cc": '#include <CLI/CLI.hpp>\n\n#include "weft/torch/ops.h"\n',
}


def check(changes):
    """Runs presubmit over CLEAN with some files replaced (None: removed); gives (exit code, output)."""
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**CLEAN, **changes}.items():
            if text is None:
                continue
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as file:
                file.write(text.encode())
        run = subprocess.run([sys.executable, PRESUBMIT, "--root", root, "--no-format"], capture_output=True, text=True)
        return run.returncode, run.stdout + run.stderr


class Presubmit(unittest.TestCase):
    def refuses(self, path, text, expected):
        code, output = check({path: text})
        self.assertEqual(code, 1, output)
        self.assertIn(expected, output)
        self.assertIn("1 refused", output)

    def test_accepts_a_clean_tree(self):
        code, output = check({})
        self.assertEqual(code, 0, output)
        self.assertIn("0 refused", output)

    def test_refuses_a_layer_that_includes_a_lower_one(self):
        self.refuses("weft/mask/bad.cc", '#include "weft/verify/verify.h"\n', "must not include weft/verify/verify.h")
        self.refuses("weft/mask/bad.cc", '#include "cli/command.h"\n', "must not include cli/")
        self.refuses("weft/odd/bad.cc", "#include <vector>\n", "not in the list of layers")
        self.refuses("weft/mask/bad.cc", '#include "weft/odd/x.h"\n', "unknown layer")

    def test_refuses_torch_above_the_torch_layer(self):
        for header in ("torch/torch.h", "ATen/ATen.h", "c10/util/Half.h"):
            self.refuses("weft/execute/bad.cc", f"#include <{header}>\n", "must not include torch")

    def test_refuses_heavy_headers_out_of_place(self):
        self.refuses("cli/bad.h", "#pragma once\n#include <CLI/CLI.hpp>\n", "may be included only in cli/*.cc")
        self.refuses("weft/schedule/bad.cc", "#include <nlohmann/json.hpp>\n", "may be included only in")
        self.refuses("weft/schedule/json.h", "#pragma once\n#include <nlohmann/json.hpp>\n", "may be included only in")
        self.refuses("cli/bad.cc", "#include <fmt/format.h>\n", "nowhere")

    def test_refuses_mpi_outside_its_folder(self):
        self.refuses("weft/execute/bad.cc", "#include <mpi.h>\n", "may be included only in weft/mpi/")
        self.assertEqual(check({"weft/mpi/fine.cc": "#include <mpi.h>\n"})[0], 0)

    def test_refuses_bad_text(self):
        self.refuses("weft/base/bad.cc", "int x; \n", "blanks at the end")
        self.refuses("weft/base/bad.cc", "\tint x;\n", "a tab")
        self.refuses("weft/base/bad.cc", "// caf\u00e9\n", "not ASCII")
        self.refuses("weft/base/bad.cc", "int x;", "no line break")
        self.refuses("weft/base/bad.h", "int x;\n", "#pragma once")

    def test_file_sizes(self):
        self.refuses("weft/base/bad.cc", "int x;\n" * 401, "more than 400")
        code, output = check({"weft/base/long.cc": "int x;\n" * 400})
        self.assertEqual(code, 0, output)

    def test_refuses_a_missing_licence(self):
        self.refuses("LICENSE", None, "LICENSE")


if __name__ == "__main__":
    unittest.main()
