"""Writes the goldens of packages/lazy-tensor/test/trajectories.test.ts: four small random Llama models as Hugging Face
saves them, the batches they train on, and the losses of PyTorch's AdamW over them.

    python scripts/goldens/llama.py

Needs torch, transformers and safetensors; says on standard output how well conditioned each case is. Deterministic.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

OUT = Path(__file__).resolve().parents[2] / "packages/lazy-tensor/test/goldens/llama"
STEPS = 20
TRAIN = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}

# name: (LlamaConfig, batch, seq, spread: that of projections' weights, see make_model)
CASES = {
    # Multi-head attention; rope_theta at the top level of config.json, as most checkpoints have it.
    "a": (dict(vocab_size=128, hidden_size=48, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=4, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0), 4, 32, 1.5),
    # Grouped-query attention, tied embeddings.
    "b": (dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
               num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-4, tie_word_embeddings=True),
          2, 64, 1.5),
    # A rope theta of its own, a head dim that is not hidden_size / heads, three layers.
    "c": (dict(vocab_size=97, hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
               num_key_value_heads=1, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5,
               rope_parameters={"rope_type": "default", "rope_theta": 500000.0}), 3, 24, 1.0),
    # Odd sizes everywhere: hidden size, heads, feed-forward, vocabulary, sequence.
    "d": (dict(vocab_size=131, hidden_size=42, intermediate_size=101, num_hidden_layers=2, num_attention_heads=3,
               num_key_value_heads=3, max_position_embeddings=64, rms_norm_eps=1e-5,
               rope_parameters={"rope_type": "default", "rope_theta": 1000.0}), 3, 33, 1.5),
}


def make_model(config: dict, spread: float, seed: int) -> LlamaForCausalLM:
    """Weights so large that attention is far from uniform and rope, grouping and norms all show in the loss; no larger.
    With a spread of 2 case a is chaotic: half a float32 ulp in its weights moves a float64 loss by up to 3e-4 within 20
    steps. With one of 1.5 case c is too much for 16 bits: over 8 seeds PyTorch's own autocast is off by up to 2e-2."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config, bos_token_id=1, eos_token_id=2, attn_implementation="eager"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "embed" in name or "lm_head" in name:
                parameter.normal_(0, 0.3)
            else:
                parameter.normal_(0, spread / parameter.shape[1] ** 0.5)
    return model


def make_batches(vocab: int, batch: int, seq: int, seed: int) -> np.ndarray:
    """int32 [steps, batch, seq + 1]. Two batches in turn, so that training lowers the loss."""
    draw = np.random.Generator(np.random.PCG64(seed))
    two = draw.integers(0, vocab, (2, batch, seq + 1), dtype=np.int32)
    return np.stack([two[step % 2] for step in range(STEPS)])


def train(model: LlamaForCausalLM, batches: np.ndarray, precision: torch.dtype | None = None,
          **overrides) -> list[float]:
    """`precision`: the dtype of products, by torch.autocast."""
    how = TRAIN | overrides
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=how["lr"], betas=tuple(how["betas"]), eps=how["eps"],
                                  weight_decay=how["weight_decay"])
    # Below the usual 65536, so that no step overflows and is left out: the weights' gradients are float16 here.
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=precision == torch.float16)
    losses = []
    for batch in torch.from_numpy(batches).long():
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), how["clip"])
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def interleave(model: LlamaForCausalLM) -> None:
    """Query and key rows in the order of a model whose rope is interleaved."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            weight = projection.weight.data
            halves = weight.view(-1, 2, layer.self_attn.head_dim // 2, weight.shape[1])
            projection.weight.data = halves.transpose(1, 2).reshape(weight.shape)


def nudge(model: LlamaForCausalLM) -> None:
    """In float64, each weight off by up to half a float32 ulp."""
    model.double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 2**-24 * (2 * torch.rand(parameter.shape, generator=draw, dtype=torch.float64) - 1))


def sensitivity(folder: Path, batches: np.ndarray, losses: list[float]) -> dict[str, float]:
    """How far the losses move in float64, by rounding and with PyTorch's own products in 16 bits (each below the test's
    tolerance, or it tests noise), and under a mistake in the model or the training (above it, or it tests nothing)."""
    saved = LlamaConfig.from_pretrained(folder)
    theta = saved.rope_parameters["rope_theta"]

    def rerun(change=lambda model: None, config={}, **how) -> float:
        fresh = LlamaConfig.from_pretrained(folder, attn_implementation="eager", **config)
        model = LlamaForCausalLM.from_pretrained(folder, config=fresh, dtype=torch.float32)
        change(model)
        return max(abs(a - b) / b for a, b in zip(train(model, batches, **how), losses))

    return {
        "float64": rerun(lambda model: model.double()),
        "weights off by half an ulp": rerun(nudge),
        "bfloat16": rerun(precision=torch.bfloat16),
        "float16": rerun(precision=torch.float16),
        "norm eps x10": rerun(config={"rms_norm_eps": saved.rms_norm_eps * 10}),
        "theta x2": rerun(config={"rope_parameters": {"rope_type": "default", "rope_theta": 2 * theta}}),
        "interleaved rope": rerun(interleave),
        "no decay": rerun(weight_decay=0.0),
        "no clip": rerun(clip=1e9),
        "beta2 0.999": rerun(betas=[0.9, 0.999]),
    }


def write(name: str, seed: int) -> None:
    config, batch, seq, spread = CASES[name]
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(config, spread, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    saved = json.loads((folder / "config.json").read_text())
    if "rope_theta" in config:
        saved["rope_theta"] = saved.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")

    batches = make_batches(config["vocab_size"], batch, seq, seed)
    np.save(folder / "batches.npy", batches)
    losses = train(model, batches)
    (folder / "losses.json").write_text(json.dumps({**TRAIN, "losses": losses}, indent=2) + "\n")
    size_bytes = (folder / "model.safetensors").stat().st_size
    moved = ", ".join(f"{what} {by:.1e}" for what, by in sensitivity(folder, batches, losses).items())
    print(f"{name}: {size_bytes} bytes, losses {losses[0]:.4f} to {losses[-1]:.4f}; moved by {moved}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for index, case in enumerate(CASES):
        write(case, seed=index + 1)
