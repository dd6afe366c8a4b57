"""Writes packages/lazy-tensor/test/goldens/ops.safetensors: PyTorch's results and gradients for every sample of
packages/lazy-tensor/test/ops.samples.ts.

    python scripts/goldens/ops.py

Needs torch, numpy and safetensors, and node with this repository's packages installed. All arithmetic on floats is done
in float64 from the inputs as rounded to the sample's dtype, so a golden of float32 is right to the last bit; one of a
half type is stored unrounded, as float32, unless the sample is exact. Deterministic.

Of a tensor of more than LIMIT elements, PICKED are stored, spread evenly; next to them as `<name>.sums` the sum of
all finite elements, the sum of their squares and a sum weighted by position.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from torch_ops import DTYPES, OPS

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "packages/lazy-tensor/test/goldens/ops.safetensors"
LIMIT, PICKED = 1100, 251


def read_samples() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.json"
        subprocess.run(["node", ROOT / "scripts/goldens/dump-samples.mjs", path], check=True)
        return json.loads(path.read_text())


def tensor(spec: dict) -> torch.Tensor:
    value = OPS["constant"](spec["shape"], spec["dtype"], spec["data"])
    return value.double() if value.is_floating_point() else value


def results_of(sample: dict) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor | None]]:
    """The op's results, and by leaf its gradient; None where none is asked for."""
    leaves, values = [], []
    for operand in sample["operands"]:
        if "data" in operand:
            leaf = tensor(operand)
            leaf.requires_grad_(sample["grad"] and leaf.is_floating_point())
            leaves.append(leaf)
            via = operand.get("via")
            values.append(OPS[via["op"]](leaf, **via["attrs"]) if via else leaf)
        else:
            value = OPS[operand["op"]](*(values[i] for i in operand["of"]), **operand.get("attrs", sample["attrs"]))
            several = isinstance(value, tuple) and "result" in operand
            values.append(value[operand["result"]] if several else value)
    results = OPS[sample["op"]](*(values[i] for i in sample["args"]), **sample["attrs"])
    results = results if isinstance(results, tuple) else (results,)
    if not sample["grad"]:
        return results, []

    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    pairs = [(results[spec["result"]], tensor(spec)) for spec in sample["cotangents"]]
    pairs = [(result, cotangent) for result, cotangent in pairs if result.requires_grad]
    found = iter(
        torch.autograd.grad([r for r, _ in pairs], wanted, [c for _, c in pairs], allow_unused=True)
        if pairs
        else [None] * len(wanted)
    )
    gradients = [next(found) if leaf.requires_grad else None for leaf in leaves]
    zeros = [torch.zeros_like(leaf) if leaf.requires_grad else None for leaf in leaves]
    return results, [zero if gradient is None else gradient for gradient, zero in zip(gradients, zeros)]


def rounded(value: torch.Tensor, dtype: torch.dtype, exact: bool) -> torch.Tensor:
    """In the dtype it is stored in."""
    value = value.detach()
    if not dtype.is_floating_point:
        assert not value.is_floating_point(), value.dtype
        return value.to(dtype)
    if dtype.itemsize > 2:
        return value.to(dtype)
    stored = value.to(dtype).float()
    # Unrounded, but for what overflows.
    return stored if exact else torch.where(stored.isfinite(), value.float(), stored)


def pack(name: str, value: torch.Tensor, out: dict[str, torch.Tensor]) -> None:
    flat = value.contiguous().flatten()
    if flat.numel() <= LIMIT:
        out[name] = flat
        return
    out[name] = flat[torch.arange(PICKED) * flat.numel() // PICKED].clone()
    finite = torch.nan_to_num(flat.double(), nan=0.0, posinf=0.0, neginf=0.0)
    weights = (torch.arange(flat.numel()) * 7 % 11 - 5).double()
    out[f"{name}.sums"] = torch.stack([finite.sum(), (finite * finite).sum(), (finite * weights).sum()])


def main() -> None:
    torch.set_num_threads(1)
    goldens, digests = {}, {}
    for sample in read_samples():
        key = f"{sample['op']}/{sample['name']}"
        assert key not in digests, f"two samples are called {key}"
        try:
            results, gradients = results_of(sample)
            types = [(spec["shape"], DTYPES[spec["dtype"]]) for spec in sample["results"]]
            assert [list(r.shape) for r in results] == [shape for shape, _ in types], [r.shape for r in results]
            for index, (value, (_, dtype)) in enumerate(zip(results, types)):
                pack(f"{key}/out{index}", rounded(value, dtype, sample["exact"]), goldens)
            leaves = [spec for spec in sample["operands"] if "data" in spec]
            for index, (gradient, spec) in enumerate(zip(gradients, leaves)):
                if gradient is not None:
                    pack(f"{key}/grad{index}", rounded(gradient, DTYPES[spec["dtype"]], False), goldens)
        except Exception as error:
            raise RuntimeError(f"{key}: {error}") from error
        digests[key] = sample["digest"]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(goldens, OUT, {"digests": json.dumps(digests)})
    OUT.chmod(0o644)
    print(f"{len(digests)} samples, {len(goldens)} tensors, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
