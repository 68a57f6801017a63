"""Shared by the interoperability suites: the compiler's and trainers' command lines, Fashion-MNIST, and training in PyTorch.

Only `intc` and the trainers it makes are used, as any user would. INTC names the compiler (default build/intc)."""
import csv
import gzip
import math
import os
import re
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "models"))
INTC = os.path.abspath(os.environ.get("INTC", os.path.join(ROOT, "build", "intc")))
DATA = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530
BATCH = 128


def run(*command, folder=None):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(c) for c in command], cwd=folder, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode}: {' '.join(str(c) for c in command)}\n{done.stderr.strip()}")
    return done.stdout


def compile_model(path, out, batch=BATCH, *options):
    run(INTC, f"--batch={batch}", *options, path, "-o", out)


def fashion_mnist():
    """Images uint8 [N,1,28,28] and labels uint8 [N]: train, then test."""
    def idx(name, skip):
        with gzip.open(os.path.join(DATA, name + ".gz")) as file:
            return np.frombuffer(file.read(), np.uint8)[skip:]
    parts = []
    for part in ("train", "t10k"):
        parts += [idx(f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28), idx(f"{part}-labels-idx1-ubyte", 8)]
    return parts


def standardise(images):
    return ((images.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


def batches(count, epochs, seed):
    """Indices [steps, BATCH]: a new order each epoch, the incomplete batch dropped."""
    import torch
    order = torch.Generator().manual_seed(1000 + seed)
    steps = count // BATCH
    return np.concatenate([torch.randperm(count, generator=order).numpy()[:steps * BATCH].reshape(steps, BATCH) for _ in range(epochs)])


def cosine(rate, step, total):
    return rate * 0.5 * (1 + math.cos(math.pi * step / total))


def train_torch(net, images, labels, indices, rate, momentum=0.9):
    """Float32 SGD with a cosine rate; the loss of every step."""
    import torch
    import torch.nn.functional as F
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum)
    x, y, losses = torch.from_numpy(standardise(images)), torch.from_numpy(labels.astype(np.int64)), []
    net.train()
    for step, index in enumerate(indices):
        index = torch.from_numpy(index)
        for group in optimizer.param_groups:
            group["lr"] = cosine(rate, step, len(indices))
        loss = F.cross_entropy(net(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def accuracy_torch(net, images, labels):
    import torch
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(torch.from_numpy(standardise(chunk))).argmax(1) for chunk in np.array_split(images, 20)]).numpy()
    return float((found == labels).mean() * 100)


def accuracy_of(predictions, labels):
    return float((predictions.reshape(len(labels), -1).argmax(1) == labels).mean() * 100)


def read_log(path):
    """Column `loss` of every step in a trainer's CSV log."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"] not in ("", None)]
    return np.array([float(row["loss"]) for row in rows])


def percentage(text):
    """The last percentage that a trainer printed."""
    return float(re.findall(r"([0-9.]+) ?%", text)[-1])


def cpu_name():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown CPU")


class Bounds:
    """Collects what was missed; `close` ends the program with status 1 if anything was."""

    def __init__(self):
        self.missed = []

    def hold(self, condition, sentence):
        if not condition:
            self.missed.append(sentence)
            print("MISSED:", sentence)

    def close(self):
        print("all bounds hold" if not self.missed else f"{len(self.missed)} bounds missed")
        sys.exit(bool(self.missed))
