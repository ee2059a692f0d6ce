"""The package as pip installs it: a wheel around the operators of this build, in an environment of its own that sees torch.

usage: wheel_test.py BUILT    BUILT: the folder with libweft_operators.so and torch_version. Exit code 77: skipped.
"""

import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
import textwrap

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
    import sys, time
    import torch, torch.distributed as dist
    begin = time.process_time()
    import weft
    seconds = time.process_time() - begin
    assert weft.__file__.startswith(sys.prefix), weft.__file__
    assert seconds < 0.3, f"import weft takes {seconds:.2f} s after torch"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    plan = weft.plan(tokens=40, heads=4, kv_heads=2, head_dim=8)
    q, k, v = (torch.randn(1, 40, h, 8) for h in (4, 2, 2))
    by_head = (t.transpose(1, 2) for t in (q, k, v))
    want = torch.nn.functional.scaled_dot_product_attention(*by_head, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(weft.attention(q, k, v, plan), want.transpose(1, 2))
    print(f"import weft: {seconds:.3f} s")
"""


def run(*command, env=None, cwd=None):
    done = subprocess.run([str(word) for word in command], env=env, cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def must(*command, **options):
    code, text = run(*command, **options)
    assert code == 0, text
    return text


def main(built):
    try:
        import scikit_build_core  # noqa: F401
    except ImportError:
        print("skipped: scikit-build-core is not installed; make setup installs it")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        must(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, "-C", f"build-dir={folder / 'build'}",
             "-C", f"cmake.define.WEFT_BUILT={built}", SOURCE)
        wheel, = folder.glob("weft-*.whl")
        assert "-py3-none-linux" in wheel.name, wheel.name
        must(sys.executable, "-m", "venv", "--without-pip", folder / "env")
        python = folder / "env/bin/python"
        must(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
        site, = folder.glob("env/lib/python*/site-packages")
        places = {sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("site-packages"))}
        (site / "torch.pth").write_text("\n".join(sorted(places)) + "\n")
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WEFT_LIBRARY")}
        program = folder / "program.py"
        program.write_text(textwrap.dedent(PROGRAM))
        print(wheel.name, must(python, program, env=clean, cwd=folder).strip())
        # Another torch is noticed before anything is loaded.
        (site / "weft/torch_version").write_text("1.13\n")
        code, text = run(python, program, env=clean, cwd=folder)
        assert code != 0 and "ImportError: weft was built for torch 1.13" in text, text
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
