#!/usr/bin/env python3
"""What only a real process shows: exit codes, which stream carries what, broken streams.

usage: process_test.py PROGRAM
"""

import os
import signal
import subprocess
import sys
import time
import unittest

PROGRAM = ""


def run(*arguments, **streams):
    streams.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, timeout=120, **streams)


class Process(unittest.TestCase):
    def refused(self, result, *parts):
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertTrue(result.stderr.startswith("weft: error: "), result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def test_help_and_version_go_to_stdout(self):
        for arguments in (["--help"], ["verify", "--help"], ["--version"]):
            result = run(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("weft", result.stdout)

    def test_errors_are_one_line_on_stderr(self):
        for arguments, part in [
            ([], "--help"),
            (["verfy"], "did you mean 'verify'?"),
            (["verify", "zigzag", "--rank", "4"], "did you mean '--ranks'?"),
            (["verify", "zigzag", "--ranks", "0", "--tokens", "8"], "from 1 to 65536"),
            (["verify", "zigzag", "--ranks", "4", "--tokens", "a\nb"], "'a\\x0ab'"),
            (["show", "ring", "--ranks", "4", "--docs", "@/nonexistent"], "No such file"),
        ]:
            result = run(*arguments)
            self.assertEqual(result.stdout, "")
            self.refused(result, part)

    def test_an_interrupt_ends_a_long_measurement_soon(self):
        words = ["bench", "methods", "--tokens", "64K", "--methods", "ring", "--repeat", "1"]
        with subprocess.Popen([PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out, err), (130, "", "weft: interrupted\n"))

    def test_a_result_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            self.refused(run("--help", stdout=full), "cannot write", "No space left")
        reading, writing = os.pipe()
        os.close(reading)
        self.refused(run("--help", stdout=writing), "cannot write", "Broken pipe")
        os.close(writing)
        closed = subprocess.run(["sh", "-c", '"$0" --help >&-', PROGRAM], stderr=subprocess.PIPE, text=True, timeout=120)
        self.refused(closed, "cannot write")


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
