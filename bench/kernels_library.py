"""What benches of libweft_kernels_c.so have in common: element types, loading, and time on the processor."""

import ctypes
import time

import torch

DTYPES = {"fp32": (torch.float32, 1), "bf16": (torch.bfloat16, 2), "fp16": (torch.float16, 3)}


def load(path):
    """The library; torch gets one thread, as Weft has."""
    torch.set_num_threads(1)
    library = ctypes.CDLL(path)
    library.weft_fma_peak_gflops.restype = ctypes.c_double
    library.weft_bf16_peak_gflops.restype = ctypes.c_double
    library.weft_kernel_name.restype = ctypes.c_char_p
    return library


def description(library):
    return (f"path {library.weft_kernel_name().decode()}, FMA peak {library.weft_fma_peak_gflops():.1f} GFLOP/s, "
            f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")


def seconds(work):
    """Processor time, not time on the clock: what other programs take of the core is not counted."""
    begin = time.process_time()
    work()
    return time.process_time() - begin
