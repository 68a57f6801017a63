#!/usr/bin/env python3
"""indices.py [--nets gather,…]: operators whose indices are data, an input or computed, inside small networks, against PyTorch.

Each network is exported by both exporters and compiled in float32; one step of plain SGD gives the gradients, (before - after) / rate, which equal PyTorch's to
rounding. The same step of the integer trainer: its loss is within 5 % of float32's."""
import argparse
import contextlib
import io
import re
import tempfile
import warnings

import numpy as np
import onnx
import onnx.numpy_helper
import torch
import torch.nn.functional as F
from torch import nn

import common

BATCH, CLASSES, RATE = 16, 5, 1.0
TOLERANCE, INTEGER = 2e-6, 0.05


class Net(nn.Module):
    """Two linear layers with `between` of their border, the indices and a parameter."""

    def __init__(self, width, out, between, shape=(1,)):
        super().__init__()
        self.first, self.last = nn.Linear(8, width), nn.Linear(out, CLASSES)
        self.other = nn.Parameter(torch.randn(shape))
        self.between = between

    def forward(self, x, index):
        return self.last(self.between(torch.tanh(self.first(x)), index, self.other).flatten(1))


def put(h, index, other):
    """Rows of a [6, 4] table a sample are overwritten at index."""
    table = h.reshape(BATCH, 6, 4)
    return table.index_put((torch.arange(BATCH), index[:, 0]), other.expand(BATCH, 4))


# name: network, how many indices a row, their limit
NETS = {
    "gather": (lambda: Net(12, 5, lambda h, i, p: p * torch.gather(h, 1, i)), 5, 12),
    "gather_inner": (lambda: Net(24, 15, lambda h, i, p: p * torch.gather(h.reshape(BATCH, 8, 3), 1, i.reshape(BATCH, 5, 1).expand(BATCH, 5, 3))), 5, 8),
    "gather_nd": (lambda: Net(24, 8, lambda h, i, p: p * h.reshape(BATCH, 6, 4)[torch.arange(BATCH).unsqueeze(1), i]), 2, 6),
    "scatter": (lambda: Net(12, 12, lambda h, i, p: h.scatter(1, i[:, :1], p.expand(BATCH, 1))), 3, 12),
    "scatter_add": (lambda: Net(12, 12, lambda h, i, p: h.scatter_add(1, i, p.expand(BATCH, 7))), 7, 12),
    "scatter_nd": (lambda: Net(24, 24, put, (4,)), 1, 6),
    "one_hot": (lambda: Net(12, 12, lambda h, i, p: h * F.one_hot(i[:, 0], 12).float() + p), 1, 12),
    "computed": (lambda: Net(12, 13, lambda h, i, p: torch.cat((torch.gather(h, 1, h.argmax(1, keepdim=True)), p * h), 1)), 0, 2),
}


def export(net, inputs, path, dynamo):
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        names = {"input_names": ["x", "index"]}
        if dynamo:
            torch.onnx.export(net, inputs, path, dynamo=True, opset_version=20, external_data=False, **names)
        else:
            torch.onnx.export(net, inputs, path, dynamo=False, opset_version=18, **names)


def weights_of(path):
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


# Spelled with arithmetic on indices, which intc refuses.
REFUSED = {("gather_nd", False)}


def step(trainer, folder, inputs):
    """The loss of one step; the trained weights are in after.onnx."""
    text = common.run(trainer, "train", *inputs, "--target", f"{folder}/y.npy", "--epochs", 1, "--lr", RATE, "--shuffle", "off", "--save",
                      f"{folder}/after.onnx", "--format", "float")
    return float(re.search(r"final: loss ([0-9.]+)", text).group(1))


def check(name, dynamo, folder, bounds):
    torch.manual_seed(3)
    make, columns, limit = NETS[name]
    net = make()
    x, index = torch.randn(BATCH, 8), torch.randint(0, limit, (BATCH, columns))
    y = torch.randint(0, CLASSES, (BATCH,))
    for key, value in (("x", x), ("index", index), ("y", y)):
        np.save(f"{folder}/{key}.npy", value.numpy())
    source = f"{folder}/net.onnx"
    export(net, (x, index), source, dynamo)
    used = [i.name for i in onnx.load(source).graph.input if columns > 0 or i.name == "x"]
    inputs = [word for key in used for word in ("--data", f"{key}={folder}/{key}.npy")]
    if (name, dynamo) in REFUSED:
        done = common.subprocess.run([common.INTC, f"--batch={BATCH}", source, "-o", f"{folder}/float"], text=True, capture_output=True)
        bounds.hold(done.returncode == 1 and "neither constant nor an integer input" in done.stderr, f"{name}: no refusal: {done.stderr}")
        print(f"{name:13s} legacy  refused: {done.stderr.strip().splitlines()[-1]}")
        return
    common.compile_model(source, f"{folder}/float", BATCH, "--arith=float32")
    common.compile_model(source, f"{folder}/int", BATCH)
    loss = F.cross_entropy(net(x, index), y)
    loss.backward()
    found = step(f"{folder}/float", folder, inputs)
    before, after = weights_of(source), weights_of(f"{folder}/after.onnx")
    farthest = abs(found - loss.item()) / loss.item()
    named = {key: p.grad.double().numpy() for key, p in net.named_parameters() if p.grad is not None}
    for key, expected in named.items():
        if key not in before:  # the older exporter stores some transposed and names them anew
            continue
        difference = np.abs((before[key] - after[key]) / RATE - expected.reshape(before[key].shape)).max()
        bounds.hold(np.abs(expected).max() > 0, f"{name} {key}: the gradient is zero")
        farthest = max(farthest, difference / max(1, np.abs(before[key]).max()))
    bounds.hold(sum(key in before for key in named) >= 3, f"{name}: {sum(key in before for key in named)} gradients compared")
    bounds.hold(farthest <= TOLERANCE, f"{name}: {farthest:.1e} from PyTorch")
    integer = step(f"{folder}/int", folder, inputs)
    bounds.hold(abs(integer / found - 1) <= INTEGER, f"{name}: integer loss {integer}, float {found}")
    print(f"{name:13s} {'dynamo' if dynamo else 'legacy'}  loss {found:.6f}, integers {integer:.6f}; loss and gradients at most {farthest:.1e} from PyTorch", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default=",".join(NETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bounds = common.Bounds()
    for name in arguments.nets.split(","):
        for dynamo in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                check(name, dynamo, folder, bounds)
    bounds.close()


main()
