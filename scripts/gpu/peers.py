"""What PyTorch reaches on this GPU, for scripts/gpu/bench.py, a line of JSON each:

    ceilings [small]                        GB/s of a copy on the device, bytes read and written counted; TFLOP/s of a product
    attention BATCH HEADS LENGTH SIZE       TFLOP/s of its best backend, causal, in bfloat16, forward and with gradients

Without a GPU it runs on the CPU, so that the script can be tried."""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def elapsed(run):
    if DEVICE == "cpu":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def milliseconds(run, rounds=30):
    for _ in range(5):
        run()
    return statistics.median(elapsed(run) for _ in range(rounds))


def ceilings(size=""):
    elements, side = (2**16, 128) if size == "small" else (2**28, 8192)
    source = torch.randn(elements, device=DEVICE)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e6
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    tflops = 2 * side**3 / milliseconds(lambda: a @ b) / 1e9
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "none"
    return {"gpu": name, "copy_gb_per_s": copy, "tflops": tflops}


def attention(batch, heads, length, size):
    shape = [int(batch), int(heads), int(length), int(size)]
    q, k, v, g = (torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(4))
    flops = 2 * shape[0] * shape[1] * shape[2] ** 2 * shape[3]  # two products, half of each masked
    best = None
    fast = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    for backend in fast if DEVICE == "cuda" else [SDPBackend.MATH]:
        try:
            with sdpa_kernel(backend):
                forward = milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
                for x in (q, k, v):
                    x.requires_grad_()

                def both():
                    F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(g)
                    q.grad = k.grad = v.grad = None

                total = milliseconds(both)
        except RuntimeError:
            continue
        finally:
            for x in (q, k, v):
                x.requires_grad_(False)
        if best is None or total < best[0]:
            best = (total, forward, backend.name)
    total, forward, name = best
    return {"backend": name, "forward": flops / forward / 1e9, "both": 3.5 * flops / total / 1e9}


print(json.dumps({"ceilings": ceilings, "attention": attention}[sys.argv[1]](*sys.argv[2:])))
