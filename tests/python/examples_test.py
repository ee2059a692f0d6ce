"""Every example runs, and says the same on one and on two processes where it should."""

import os
import pathlib
import re
import subprocess
import sys
import unittest

try:
    import accelerate  # noqa: F401  (the Trainer needs it)
    import transformers  # noqa: F401
except ImportError:
    transformers = None

try:
    import ipykernel  # noqa: F401
    import nbclient
    import nbformat
    from jupyter_client import AsyncKernelManager
except ImportError:
    nbclient = None

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "examples"
MOST_LINES = 80


def example(name, processes):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    if processes == 1:  # as torchrun would start it
        environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        command = [sys.executable]
    done = subprocess.run([*command, FOLDER / name], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(text):
    return [float(word) for word in re.findall(r"\d+\.\d+", text)]


class Examples(unittest.TestCase):
    def assert_close(self, a, b, tolerance):
        self.assertEqual(len(a), len(b))
        self.assertGreater(len(a), 1)
        for x, y in zip(a, b):
            self.assertLessEqual(abs(x - y), tolerance * abs(y))

    def test_lengths(self):
        for path in FOLDER.glob("*.py"):
            self.assertLessEqual(len(path.read_text().splitlines()), MOST_LINES, path.name)

    def test_attention(self):
        self.assertIn("largest differences", example("attention.py", 2))

    def test_packed_documents(self):
        self.assertEqual(example("packed_documents.py", 2).count("the same bits"), 2)

    def test_small_gpt(self):
        self.assert_close(numbers(example("small_gpt.py", 1)), numbers(example("small_gpt.py", 2)), 1e-4)

    def test_hybrid(self):
        self.assert_close(numbers(example("hybrid.py", 1)), numbers(example("hybrid.py", 2)), 1e-4)

    @unittest.skipIf(transformers is None, "transformers or accelerate is not installed")
    def test_huggingface(self):
        losses = [numbers(example("huggingface.py", processes).split("losses")[-1]) for processes in (1, 2)]
        self.assert_close(*losses, 1e-5)

    @unittest.skipIf(nbclient is None, "nbclient, nbformat or ipykernel is not installed")
    def test_notebook(self):
        notebook = nbformat.read(FOLDER / "plans.ipynb", as_version=4)
        nbformat.validate(notebook)
        # The kernel of this Python, wherever Jupyter looks for others.
        manager = AsyncKernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = sys.executable
        nbclient.NotebookClient(notebook, timeout=300, km=manager).execute(cwd=str(FOLDER))
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        pictures = [output for output in outputs if "image/svg+xml" in output.get("data", {})]
        self.assertEqual(len(pictures), 3)
        self.assertIn("largest difference", "".join(output.get("text", "") for output in outputs))


if __name__ == "__main__":
    unittest.main()
