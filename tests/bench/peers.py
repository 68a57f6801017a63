#!/usr/bin/env python3
"""peers.py [--rounds 9] [--short] [--steps N]: a training step of intc against PyTorch float32 eager, one thread each, batch 128.

Runs of both alternate in one session; medians are compared. Networks: the 784-512-512-10 MLP and LeNet-5. A step is forward, backward and SGD
with momentum on a batch of made-up data that stays in memory. Peak memory is the largest resident set of each process, the framework included.
Exits 1 unless intc is at least as fast and takes at most a third of the memory. Figures hold for the CPU named in the first line."""
import argparse
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import common
import export

PEER = """
import sys, time, torch, torch.nn.functional as F
sys.path.insert(0, sys.argv[1])
import export
torch.set_num_threads(1)
torch.set_flush_denormal(True)
name, steps = sys.argv[2], int(sys.argv[3])
net = export.make(name, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
x, y = torch.randn(128, *export.MODELS[name][1]), torch.randint(0, 10, (128,))
def step():
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
for _ in range(10): step()
start = time.perf_counter()
for _ in range(steps): step()
print("ms", (time.perf_counter() - start) / steps * 1000)
"""


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rounds, arguments.steps = 5, 50
    bounds = common.Bounds()
    import torch
    print(f"{common.cpu_name()}; PyTorch {torch.__version__}; one thread, batch {common.BATCH}, median of {arguments.rounds} alternating runs")
    print(f"{'model':10s} {'intc ms':>8s} {'float ms':>9s} {'faster':>7s} {'intc MB':>8s} {'float MB':>9s} {'share':>6s}")
    for name in ("mlp_bench", "lenet5"):
        with tempfile.TemporaryDirectory() as folder:
            export.export(export.make(name, 1), name, f"{folder}/model.onnx")
            common.compile_model(f"{folder}/model.onnx", f"{folder}/trainer")
            times, memory = ([], []), ([], [])
            for _ in range(arguments.rounds):
                for side, command in enumerate(([f"{folder}/trainer", "bench", "--threads", 1],
                                                [sys.executable, "-c", PEER, os.path.join(common.ROOT, "models"), name, arguments.steps])):
                    text, peak = measure(command)
                    times[side].append(milliseconds(text))
                    memory[side].append(peak)
        mine, theirs = (statistics.median(t) for t in times)
        small, large = (max(m) for m in memory)
        print(f"{name:10s} {mine:8.2f} {theirs:9.2f} {theirs / mine:6.2f}x {small:8.1f} {large:9.1f} {small / large:6.2f}", flush=True)
        bounds.hold(mine <= theirs, f"{name}: {mine:.2f} ms a step, PyTorch {theirs:.2f}")
        bounds.hold(small * 3 <= large, f"{name}: {small:.1f} MB at the peak, PyTorch {large:.1f}")
    bounds.close()


main()
