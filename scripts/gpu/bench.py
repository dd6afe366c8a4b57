"""Lazuli beside PyTorch on this GPU, for scripts/gpu/check.sh: a row for each figure with its bar, what says most first. Every
program has a process of its own and a time limit; one that fails leaves its row saying so, and the others go on."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GPU = os.path.join(HERE, "..", "..", ".gpu")
PEERS = os.path.join(GPU, "peers")

parser = argparse.ArgumentParser()
parser.add_argument("--node", required=True)
parser.add_argument("--logs", required=True)
parser.add_argument("--table", required=True)
parser.add_argument("--seconds", type=float, required=True)
parser.add_argument("--rehearse", action="store_true", help="sizes for an emulated GPU")
options = parser.parse_args()
end = time.monotonic() + options.seconds


def row(name, text, bar=None, passed=None):
    verdict = "" if bar is None else f"   [{bar}: {'ok' if passed else 'MISSED'}]"
    line = f"{name:36} {text}{verdict}"
    print(line, flush=True)
    with open(options.table, "a") as table:
        table.write(line + "\n")


class Failed(Exception):
    pass


def run(seconds, *command):
    """The line of JSON that a program prints last."""
    seconds = min(seconds * (10 if options.rehearse else 1), end - time.monotonic())
    what = " ".join(map(str, command[1:]))
    if seconds < 2:
        raise Failed("no time was left")
    with open(os.path.join(options.logs, "bench.log"), "a") as log:
        log.write(f"\n$ {what}\n")
        log.flush()
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, timeout=seconds, text=True)
        except subprocess.TimeoutExpired:
            raise Failed(f"did not end within {seconds:.0f} s") from None
        log.write(done.stdout)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"ended with {done.returncode}, see bench.log") from None


def ours(seconds, *flags):
    os.environ["LAZULI_DEVICE"] = "cuda"
    return run(seconds, options.node, os.path.join(GPU, "js", "bench.mjs"), *flags, "--json")


def peer(seconds, *flags):
    script = "torch_llama.py" if flags[0].startswith("--") else os.path.join(HERE, "peers.py")
    return run(seconds, sys.executable, os.path.join(PEERS, script), *flags)


def figure(name):
    """Of a function that prints rows: a failure is a row too."""

    def decorate(function):
        def guarded(*args):
            try:
                return function(*args)
            except Failed as failure:
                row(name.format(*args), f"none: {failure}", "-", False)
            except Exception as error:  # noqa: BLE001: the other figures are still wanted
                row(name.format(*args), f"none: {type(error).__name__}: {error}", "-", False)

        return guarded

    return decorate


def flops_per_token(config):
    """Of the model: six for each parameter of a product and token, and causal attention's, half of which is masked."""
    sys.path.insert(0, PEERS)
    from configs import CONFIGS

    dim, layers, heads, kv_heads, hidden, vocab, _, seq = CONFIGS[config]
    attention = 2 * dim * dim + 2 * dim * dim * kv_heads // heads
    return 6 * (layers * (attention + 3 * dim * hidden) + vocab * dim) + 6 * layers * seq * dim


@figure("{0} bfloat16, tokens/s")
def train(config, rounds, steps, seconds):
    chosen = "tiny" if options.rehearse else config
    flags = ["--config", chosen, "--dtype", "bfloat16", "--steps", str(steps), "--warmup", "1" if options.rehearse else "12"]
    rates, theirs, failure = [], [], ""
    for _ in range(rounds):
        line = ours(seconds, "train", *flags)
        rates.append(line["tokens_per_s"])
        try:
            theirs.append(peer(seconds, *flags, "--compile")["tokens_per_s"])
        except Failed as failed:
            failure = str(failed)
    rate = statistics.median(rates)
    name = f"{config} bfloat16, tokens/s"
    if theirs:
        other = statistics.median(theirs)
        ratio = rate / other
        row(name, f"{rate:.0f}; torch.compile {other:.0f}; {ratio:.2f}x", "1.15x", ratio >= 1.15)
    else:
        row(name, f"{rate:.0f}; torch.compile: {failure}", "1.15x", False)
    row(f"{config}: step, first step, losses", f"{line['step_ms']} ms, {line['first_step_s']} s, {line['losses']}")
    return chosen, rate


@figure("attention T=4096 D=128, TFLOP/s")
def attention():
    shape = ("1", "1", "128", "128") if options.rehearse else ("4", "16", "4096", "128")
    names = ("--batch", "--heads", "--seq", "--head-dim")
    line = ours(60, "attention", *[word for pair in zip(names, shape) for word in pair], "--dtype", "bfloat16")
    forward, both = line["forward_gflops"] / 1000, line["forward_backward_gflops"] / 1000
    name, mine = "attention T=4096 D=128, TFLOP/s", f"forward {forward:.0f}, both {both:.0f}"
    try:
        theirs = peer(60, "attention", *shape)
    except Failed as failure:
        row(name, f"{mine}; SDPA: {failure}", "0.90x", False)
        return
    ratio = both / theirs["both"]
    row(
        name,
        f"{mine}; {theirs['backend']} forward {theirs['forward']:.0f}, both {theirs['both']:.0f}; {ratio:.2f}x",
        "0.90x",
        ratio >= 0.9,
    )


@figure("copy and products by PyTorch")
def ceilings():
    line = peer(60, "ceilings", *(["small"] if options.rehearse else []))
    row("copy and products by PyTorch", f"{line['copy_gb_per_s']:.0f} GB/s, bfloat16 {line['tflops']:.0f} TFLOP/s")
    return line


@figure("bandwidth of kernels")
def bandwidth(copy):
    line = ours(90, "bandwidth", *(["--elements", "16384"] if options.rehearse else []))
    for name, rate in line.items():
        if name == "elements":
            continue
        if copy:
            share = rate / copy["copy_gb_per_s"]
            row(f"{name}, GB/s", f"{rate:.0f}, {100 * share:.0f} % of a copy", "85 %", share >= 0.85)
        else:
            row(f"{name}, GB/s", f"{rate:.0f}, no copy to compare with", "85 %", False)


@figure("host time of a replayed step, us")
def replay():
    flags = ("--config", "tiny", "--steps", "9") if options.rehearse else ("--config", "15m", "--steps", "900")
    line = ours(60, "replay", "--device", "cuda", *flags)
    total = line["host_us"] + line["launch_us"]
    row(
        "host time of a replayed step, us",
        f"{total:.0f}: {line['host_us']:.0f} in JavaScript, {line['launch_us']:.0f} on the device's thread",
        "100",
        total < 100,
    )


@figure("1b: model FLOPs use")
def use(trained, peak):
    if not trained:
        raise Failed("it was not trained")
    config, rate = trained
    achieved = rate * flops_per_token(config) / 1e12
    # Of the data sheet (dense) where the GPU is known, else of what PyTorch's product reaches.
    known = 989 if any(name in (peak or {}).get("gpu", "") for name in ("H100", "H200")) else None
    if not known and not peak:
        raise Failed("there is no peak to compare with")
    share = achieved / (known or peak["tflops"])
    measured = f", {100 * achieved / peak['tflops']:.0f} % of the measured product" if peak else ""
    row(
        "1b: model FLOPs use",
        f"{achieved:.0f} TFLOP/s, {100 * share:.0f} % of {known or round(peak['tflops'])}{measured}",
        "45 %",
        share >= 0.45,
    )


train("110m", 1 if options.rehearse else 2, 2 if options.rehearse else 40, 45)
attention()
peak = ceilings()
bandwidth(peak)
replay()
use(train("1b", 1, 1 if options.rehearse else 12, 90), peak)
