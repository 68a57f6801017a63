#!/usr/bin/env python3
"""peers.py [--models NAME,…] [--threads 1,2] [--rounds 9] [--seconds 3] [--short]: a training step of intc against PyTorch on this CPU.

PyTorch runs in float32 eager, in contiguous and in channels-last order (the faster counts), and beside it float32 under torch.compile and bf16
autocast, each in a process of its own that waits between its runs. All runs alternate in one session; medians are compared. A step is forward, backward
and SGD with momentum on a batch of made-up data that stays in memory; a run is at least three steps and --seconds long. GMAC/s are intc's, a step counted as three times the products of its forward pass,
as PyTorch counts them. Peak memory is the largest resident set of each process, the framework included.
Exits 1 unless intc is at least as fast as float32 eager and takes at most a third of its memory. --short: the MLP and LeNet-5, one thread, eager alone.
Figures hold for the CPU named in the first line."""
import argparse
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import common
import export

BATCHES = {"mlp_bench": 128, "lenet5": 128, "resnet20": 128, "mobilenetv2": 64, "resnet18": 16, "vit_tiny": 32}
EAGER = ("contiguous", "channels_last")
VARIANTS = EAGER + ("compiled", "bf16")

PEER = """
import contextlib, sys, time, torch, torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
sys.path.insert(0, sys.argv[1])
import export
name, variant, batch, threads, seconds = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
torch.set_num_threads(threads)
torch.set_flush_denormal(True)
net, x, y = export.make(name, 1), torch.randn(batch, *export.MODELS[name][1]), torch.randint(0, 10, (batch,))
if variant != "contiguous":
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
loss = torch.compile(lambda: F.cross_entropy(net(x), y)) if variant == "compiled" else lambda: F.cross_entropy(net(x), y)
def step():
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if variant == "bf16" else contextlib.nullcontext():
        value = loss()
    value.backward()
    optimizer.step()
def run():
    start, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return (time.perf_counter() - start) / steps * 1000
for _ in range(3): step()
with torch.no_grad(), FlopCounterMode(display=False) as counter: net(x)
print("ready", 3 * counter.get_total_flops() // 2, flush=True)
for _ in sys.stdin: print("ms", run(), flush=True)
"""


class Peer:
    """One variant of PyTorch, warm: its first steps are behind it."""

    def __init__(self, name, variant, batch, threads, seconds):
        command = [sys.executable, "-c", PEER, os.path.join(common.ROOT, "models"), name, variant, batch, threads, seconds]
        self.name = f"{name}, {variant}"
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            raise SystemExit(f"{self.name}: PyTorch ended with status {self.process.wait()}")
        return text

    def run(self):
        """Milliseconds a step, and the peak resident set in MB until now."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return milliseconds(self.line()), high_water(self.process.pid) / 1024

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(command):
    """Standard output and peak resident set in MB of one process. The peak is its own VmHWM, read while it runs: what wait4 tells would
    count this process before the exec."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    peak = 0
    while not select.select([process.stdout], [], [], 0.02)[0]:
        peak = max(peak, high_water(process.pid))
    peak = max(peak, high_water(process.pid))
    text, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"exit status {process.returncode}: {' '.join(str(c) for c in command)}")
    return text, peak / 1024


def high_water(pid):
    """Kilobytes; 0 once the process is gone."""
    with open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)


def milliseconds(text):
    """A step's time from what `trainer bench` or PEER prints: "N ms" or "ms N", else "N steps/s"."""
    found = re.search(r"([0-9.]+) ?ms", text) or re.search(r"ms ([0-9.]+)", text)
    if found:
        return float(found.group(1))
    return 1000 / float(re.search(r"([0-9.]+) ?steps", text).group(1))


def row(name, folder, threads, variants, rounds, seconds):
    """Median milliseconds and largest MB, of the trainer under "intc" and of each variant of PyTorch; and the products of a step."""
    trainer, batch = f"{folder}/trainer", BATCHES[name]
    once = milliseconds(measure([trainer, "bench", "--threads", threads, "--steps", 1])[0])
    steps = max(3, int(seconds * 1000 / once))
    peers = {variant: Peer(name, variant, batch, threads, seconds) for variant in variants}
    products = max(int(peer.line().split()[1]) for peer in peers.values())
    runs = {side: [] for side in ("intc", *peers)}
    for _ in range(rounds):
        text, peak = measure([trainer, "bench", "--threads", threads, "--steps", steps])
        runs["intc"].append((milliseconds(text), peak))
        for variant, peer in peers.items():
            runs[variant].append(peer.run())
    for peer in peers.values():
        peer.close()
    return {side: (statistics.median(t for t, _ in found), max(m for _, m in found)) for side, found in runs.items()}, products


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(BATCHES))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    variants = VARIANTS
    if arguments.short:
        arguments.models, arguments.threads, arguments.rounds, arguments.seconds = "mlp_bench,lenet5", "1", 5, 0.3
        variants = EAGER
    bounds = common.Bounds()
    import torch
    print(f"{common.cpu_name()}; PyTorch {torch.__version__}; median of {arguments.rounds} alternating runs; milliseconds a step, times as fast as eager")
    print(f"{'model':12s} {'batch':>5s} {'threads':>7s} {'intc':>8s} {'eager':>8s} {'faster':>7s} {'compiled':>8s} {'bf16':>8s} {'GMAC/s':>6s} "
          f"{'MB':>7s} {'eager MB':>8s} {'share':>6s} {'compile s':>9s} {'binary KB':>9s}")
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            export.export(export.make(name, 1), name, f"{folder}/model.onnx")
            start = time.time()
            common.compile_model(f"{folder}/model.onnx", f"{folder}/trainer", BATCHES[name])
            compile_seconds, size = time.time() - start, os.path.getsize(f"{folder}/trainer") / 1024
            for threads in arguments.threads.split(","):
                found, products = row(name, folder, int(threads), variants, arguments.rounds, arguments.seconds)
                mine, small = found["intc"]
                theirs, large = min(found[variant] for variant in EAGER)
                others = " ".join(f"{found[v][0]:8.2f}" if v in found else f"{'–':>8s}" for v in ("compiled", "bf16"))
                print(f"{name:12s} {BATCHES[name]:5d} {threads:>7s} {mine:8.2f} {theirs:8.2f} {theirs / mine:6.2f}x {others} {products / mine * 1e-6:6.1f} "
                      f"{small:7.1f} {large:8.1f} {small / large:6.2f} {compile_seconds:9.1f} {size:9.0f}", flush=True)
                bounds.hold(mine <= theirs, f"{name}, {threads} threads: {mine:.2f} ms a step, PyTorch {theirs:.2f}")
                bounds.hold(small * 3 <= large, f"{name}, {threads} threads: {small:.1f} MB at the peak, PyTorch {large:.1f}")
    bounds.close()


main()
