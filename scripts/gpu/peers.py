"""What PyTorch reaches on this GPU, for scripts/gpu/check.sh: `copy` prints GB/s of a device-to-device copy, bytes read and
written counted; `attention` TFLOP/s of its best backend, causal, [4, 16, 4096, 128] in bfloat16, forward and with gradients."""
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def milliseconds(run, rounds=30):
    for _ in range(5):
        run()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy():
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return f"{2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e6:.0f}"


def attention(batch=4, heads=16, length=4096, size=128):
    q, k, v, g = (torch.randn(batch, heads, length, size, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    flops = 2 * batch * heads * length * length * size  # two products, half of each masked
    best = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                forward = milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
                for x in (q, k, v):
                    x.requires_grad_()

                def both():
                    F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(g)
                    q.grad = k.grad = v.grad = None

                total = milliseconds(both)
                for x in (q, k, v):
                    x.requires_grad_(False)
        except RuntimeError:
            continue
        best.append((total, f"{backend.name}: forward {flops / forward / 1e9:.0f}, both {3.5 * flops / total / 1e9:.0f}"))
    return min(best)[1]


print({"copy": copy, "attention": attention}[sys.argv[1]]())
