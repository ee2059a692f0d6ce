#!/usr/bin/env python3
"""The program started by mpirun: the results of threads, one voice, and an end for all when one fails.

usage: programs_test.py PROGRAM --torch ON|OFF (--mpirun MPIRUN | --no-mpi)

Built without MPI, it checks that the program says so under a launcher, and ends with 77, which ctest takes as skipped.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ARGUMENTS = None
SIZE = ["--model", "tiny", "--tokens", "300"]


def command(ranks, *arguments):
    return [ARGUMENTS.mpirun, "-n", str(ranks), ARGUMENTS.program, *map(str, arguments)]


def run(*words, **more):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, **more)


def own_lines(text):
    """What weft itself has said on stderr: mpirun adds its own words."""
    return [line for line in text.splitlines() if line.startswith("weft: ")]


class Programs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="weft-mpi-"))
        cls.text = cls.folder / "text"
        cls.text.mkdir()
        for i in range(20):
            (cls.text / str(i)).write_text(f"{i} weft and warp make cloth " * (1 + i % 5), encoding="ascii")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def needs_torch(self):
        if ARGUMENTS.torch != "ON":
            self.skipTest("train and eval need torch")

    def fine(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def refused(self, done, *parts, code=2):
        said = own_lines(done.stderr)
        self.assertEqual((done.returncode, done.stdout, len(said)), (code, "", 1), done.stderr)
        for part in parts:
            self.assertIn(part, said[0])

    def expect_same_files(self, here, there):
        for name in ("model/model.safetensors", "model/config.json", "schedule.svg", "loss.svg"):
            self.assertEqual((here / name).read_bytes(), (there / name).read_bytes(), name)

    def test_training_and_going_on_give_the_bits_of_threads(self):
        self.needs_torch()
        processes, threads = self.folder / "processes", self.folder / "threads"
        first = ["train", "--text", self.text, *SIZE, "--steps", 4]
        done = run(*command(3, *first, "--out", processes, "--log", self.folder / "p.log"))
        self.assertEqual(self.fine(done).count("trained "), 1)
        self.assertEqual(done.stderr.count("step 1/4"), 1, done.stderr)
        self.fine(run(ARGUMENTS.program, *first, "--out", threads, "--log", self.folder / "t.log", "--ranks", 3))
        self.expect_same_files(processes, threads)
        logs = [map(json.loads, (self.folder / name).read_text().splitlines()) for name in ("p.log", "t.log")]
        losses = [[(row["step"], row["loss"], row["grad_norm"]) for row in log] for log in logs]
        self.assertEqual(len(losses[0]), 4)
        self.assertEqual(losses[0], losses[1])
        more = ["--steps", 6, "--method", "ulysses"]
        self.fine(run(*command(2, "train", "--resume", processes, *more)))
        self.fine(run(ARGUMENTS.program, "train", "--resume", threads, *more, "--ranks", 2))
        self.expect_same_files(processes, threads)
        measure = ["eval", "--model", threads / "model", "--text", self.text, "--tokens", 200, "--method", "ring"]
        here, there = self.folder / "p.dump", self.folder / "t.dump"
        self.assertEqual(self.fine(run(*command(2, *measure, "--dump", here))),
                         self.fine(run(ARGUMENTS.program, *measure, "--dump", there, "--ranks", 2)))
        self.assertEqual(here.read_bytes(), there.read_bytes())

    def test_hybrids_give_the_bits_of_threads(self):
        self.needs_torch()
        config = {"model_type": "weft_hybrid", "vocab_size": 257, "hidden_size": 32, "intermediate_size": 48,
                  "num_hidden_layers": 3, "num_attention_heads": 2, "full_attention_interval": 3, "linear_layer": "gdn",
                  "linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8,
                  "linear_value_head_dim": 12, "linear_conv_kernel_dim": 4}
        folders = [self.folder / f"config-{n}" for n in range(2)]
        for folder, eps in zip(folders, (1e-5, 1e-6)):
            folder.mkdir()
            (folder / "hybrid.json").write_text(json.dumps({**config, "rms_norm_eps": eps}), encoding="ascii")
        processes, threads = self.folder / "hybrid-processes", self.folder / "hybrid-threads"
        first = ["train", "--text", self.text, "--tokens", 300, "--steps", 3, "--linear-method", "log-step", "--model-config"]
        self.fine(run(*command(3, *first, folders[0] / "hybrid.json", "--out", processes)))
        self.fine(run(ARGUMENTS.program, *first, folders[0] / "hybrid.json", "--out", threads, "--ranks", 3))
        self.expect_same_files(processes, threads)
        # A file of the same name with another model, on one rank alone.
        alone = 'cd "$1/config-$((OMPI_COMM_WORLD_RANK == 1))"; shift; exec "$@"'
        self.refused(run(ARGUMENTS.mpirun, "-n", 3, "sh", "-c", alone, "sh", self.folder, ARGUMENTS.program, *first,
                         "hybrid.json"), "rank 1 has other model than rank 0")

    def test_an_error_of_one_rank_ends_all_and_is_said_once(self):
        self.needs_torch()
        model = self.folder / "model-of-one"
        train = ["train", *SIZE, "--steps", 1]
        self.fine(run(ARGUMENTS.program, *train, "--text", self.text, "--out", model))
        # Rank 1 alone finds no text, another text, or another command.
        alone = 'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then cd "$1"; fi; shift; exec "$@"'
        begin = time.monotonic()
        other = self.folder / "elsewhere"
        (other / "text").mkdir(parents=True)
        (other / "text" / "0").write_text("another text " * 40, encoding="ascii")
        for folder, part in (("/", "rank 1: cannot read text folder"), (other, "rank 1 has other text than rank 0")):
            words = ["sh", "-c", alone, "sh", folder, ARGUMENTS.program, *train, "--text", "text"]
            self.refused(run(ARGUMENTS.mpirun, "-n", 3, *words, cwd=self.folder), part)
        words = [ARGUMENTS.program, "train", *SIZE, "--text", self.text]
        self.refused(run(ARGUMENTS.mpirun, "-n", 1, *words, ":", "-n", 1, *words, "--seed", 3),
                     "rank 1 has other arguments than rank 0")
        self.assertLess(time.monotonic() - begin, 60)

    def test_what_all_ranks_refuse_is_said_once(self):
        bench = ["bench", "attention", "--tokens", 64]
        self.refused(run(*command(3, *bench, "--ranks", 2)), "--ranks 2 on 3 processes", "leave --ranks out")
        self.refused(run(*command(2, *bench, "--method", "rng")), "unknown method 'rng'")
        self.refused(run(*command(2, "verify", "ring", "--ranks", 2, "--tokens", 64)), "run it without mpirun")
        self.refused(run(*command(2, "vrify")), "did you mean 'verify'?")

    def test_help_is_given_once(self):
        self.assertEqual(self.fine(run(*command(2, "bench", "--help"))).count("Usage:"), 1)

    def test_bench_times_processes(self):
        words = ["bench", "attention", "--method", "ring", "--tokens", "1K", "--seconds", 1, "--canonical", "--json"]
        done = json.loads(self.fine(run(*command(2, *words))))
        self.assertEqual((done["ranks"], done["method"]), (2, "ring"))
        self.assertGreater(min(done["forward_seconds"], done["backward_seconds"], done["efficiency"]), 0)
        self.assertGreater(done["canonical_cost"]["time"], 0)
        table = self.fine(run(*command(2, "bench", "methods", "--methods", "ring,ulysses", "--tokens", 256)))
        # Rows only: the last line may name a method, too, on a busy machine.
        self.assertEqual(len(re.findall(r"(?m)^(?:sequence|packed) +ulysses ", table)), 2)

    def after_signal(self, number, **environment):
        """A long bench of three ranks whose last one gets a signal: what is said, after how many seconds all are gone."""
        words = command(3, "bench", "attention", "--tokens", "1K", "--seconds", 100)
        with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=os.environ | environment) as all_ranks:
            deadline = time.monotonic() + 30
            ranks = []
            while len(ranks) < 3 and time.monotonic() < deadline:
                time.sleep(0.2)
                found = run("pgrep", "-P", all_ranks.pid, "weft").stdout.split()
                ranks = [int(pid) for pid in found]
            self.assertEqual(len(ranks), 3)
            time.sleep(1)
            begin = time.monotonic()
            os.kill(ranks[-1], number)
            out, err = all_ranks.communicate(timeout=90)
        self.assertNotEqual(all_ranks.returncode, 0)
        self.assertEqual(out, "", err)
        return err, time.monotonic() - begin

    def test_a_killed_rank_ends_the_others(self):
        _, seconds = self.after_signal(signal.SIGKILL)
        self.assertLess(seconds, 15)

    def test_a_silent_rank_is_named(self):
        said, seconds = self.after_signal(signal.SIGSTOP, WEFT_MPI_TIMEOUT="5")
        # Rank 1, if it waits for rank 2, may be blamed, too: which of those who wait is first to complain is chance.
        self.assertRegex(said, r"weft: error: .*a message (from|to) rank [12] did not pass in 5 s: that rank hangs")
        self.assertLess(seconds, 60)


def check_without_mpi():
    """Rank 0 of a launcher says that there is no MPI; the others are silent."""
    for rank, lines in (("0", 1), ("1", 0)):
        environment = os.environ | {"OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": "2"}
        done = run(ARGUMENTS.program, "methods", env=environment)
        said = own_lines(done.stderr)
        assert (done.returncode, done.stdout, len(said)) == (2, "", lines), done
        assert not said or "built without MPI" in said[0], done


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--torch", default="OFF")
    parser.add_argument("--mpirun")
    parser.add_argument("--no-mpi", action="store_true")
    ARGUMENTS = parser.parse_args()
    if ARGUMENTS.no_mpi:
        check_without_mpi()
        print("skipped: no MPI library was found when weft was built (Debian: libopenmpi-dev, openmpi-bin)")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], "-v"])
