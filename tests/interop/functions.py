#!/usr/bin/env python3
"""functions.py [--functions gelu,…] [--exporter 17|20|dynamo]: every elementwise function inside a small network, against PyTorch.

Two linear layers with the function between them, exported by PyTorch as it spells the function; one step of plain SGD on Fashion-MNIST at 8 by 8
pixels. Outputs of the untrained model are compared with the same net on operands of 8 bits, where the function is rounded once (one made of several
operators is rounded more often); gradients, (before - after) / rate averaged over a few seeds of the stochastic rounding, with float32's. The int8 export equals `predict` bit for bit in ONNX Runtime."""
import argparse
import contextlib
import io
import tempfile
import warnings

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

import common

COSINE, LENGTH, OUTPUT = 0.99, 0.05, 0.04
SEEDS, RATE = 4, 4.0


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = {
    "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"),
    "gelu_by_hand": Of(lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3))))),
    "silu": nn.SiLU(), "quick_gelu": Of(lambda x: x * torch.sigmoid(1.702 * x)), "mish": nn.Mish(), "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(), "elu": nn.ELU(), "selu": nn.SELU(), "celu": nn.CELU(1.5), "softplus": nn.Softplus(), "softsign": nn.Softsign(),
    "prelu": nn.PReLU(32), "logsigmoid": nn.LogSigmoid(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "erf": Of(torch.erf), "sin": Of(torch.sin),
    "cos": Of(torch.cos), "square": Of(lambda x: x**2), "cube": Of(lambda x: x**3), "abs": Of(torch.abs), "exp": Of(torch.exp),
    "log": Of(lambda x: torch.log(1 + x * x)), "sqrt": Of(lambda x: torch.sqrt(0.1 + x * x)), "reciprocal": Of(lambda x: 1 / (1.5 + x * x)),
    "power": Of(lambda x: torch.pow(0.2 + x * x, 1.5)), "maximum": Of(lambda x: torch.maximum(torch.minimum(x, 1.5 * x), -0.3 * x)),
}


def rounded(x, bits):
    """x in so many bits: multiples of the least power of two with which the largest, rounded, fits."""
    top, step = 2 ** (bits - 1) - 1, 2.0 ** (np.floor(np.log2(x.abs().max().item())) - bits)
    while torch.round(x.abs().max() / step) > top:
        step *= 2
    return torch.round(x / step) * step


def rounded_forward(net, x):
    """The net in float64 with operands of 8 bits and one rounding before and one behind the function."""
    with torch.no_grad():
        x = rounded(net[0](x.double()), 8)
        for layer in (net[1], net[3]):
            x = F.linear(x, rounded(rounded(layer.weight.double(), 16), 8), rounded(layer.bias.double(), 16))
            x = rounded(x, 8)
            x = rounded(net[2].double()(x), 8) if layer is net[1] else x
        net.float()
    return x.numpy()


def export(net, path, exporter):
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        x = (torch.zeros(common.BATCH, 1, 8, 8),)
        if exporter == "dynamo":
            torch.onnx.export(net, x, path, dynamo=True, opset_version=20, external_data=False)
        else:
            torch.onnx.export(net, x, path, dynamo=False, opset_version=int(exporter))


def weights_of(path):
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def gradients(trainer, source, folder):
    before = weights_of(source)
    total = {key: np.zeros(value.shape) for key, value in before.items()}
    for seed in range(1, SEEDS + 1):
        common.run(trainer, "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", "--epochs", 1, "--lr", RATE, "--shuffle", "off",
                   "--seed", seed, "--checkpoint", f"{folder}/c.ckpt")
        common.run(trainer, "export", "--checkpoint", f"{folder}/c.ckpt", "-o", f"{folder}/after.onnx", "--format", "float")
        after = weights_of(f"{folder}/after.onnx")
        for key in total:
            total[key] += (before[key] - after[key]) / RATE / SEEDS
    return total


def int8_of(trainer, folder, x):
    """What the int8 export is: "equal", "differs" or the refusal."""
    done = common.subprocess.run([trainer, "export", "--checkpoint", f"{folder}/c.ckpt", "-o", f"{folder}/q.onnx", "--format", "int8"], text=True, capture_output=True)
    if done.returncode != 0:
        return "refused: " + done.stderr.strip().splitlines()[0]
    common.run(trainer, "predict", "--checkpoint", f"{folder}/c.ckpt", "--data", f"{folder}/x.npy", "--output", f"{folder}/p.npy")
    session = onnxruntime.InferenceSession(f"{folder}/q.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x})[0]
    return "equal" if (found == np.load(f"{folder}/p.npy")).all() else "differs"


def check(name, exporter, folder, bounds):
    torch.manual_seed(7)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), FUNCTIONS[name], nn.Linear(32, 10))
    images, labels, _, _ = common.fashion_mnist()
    x, y = common.standardise(images[:common.BATCH, :, 6:22:2, 6:22:2]), labels[:common.BATCH]
    np.save(f"{folder}/x.npy", x)
    np.save(f"{folder}/y.npy", y)
    source, trainer = f"{folder}/{name}.onnx", f"{folder}/{name}"
    export(net, source, exporter)
    common.compile_model(source, trainer)
    common.run(trainer, "predict", "--data", f"{folder}/x.npy", "--output", f"{folder}/p.npy")
    expected = rounded_forward(net, torch.from_numpy(x))
    outputs = net(torch.from_numpy(x))
    error = np.linalg.norm(np.load(f"{folder}/p.npy") - expected) / np.linalg.norm(expected)
    bounds.hold(error <= OUTPUT, f"{name}: outputs differ by {error:.4f} of their norm")
    net.zero_grad()
    F.cross_entropy(outputs, torch.from_numpy(y.astype(np.int64))).backward()
    found, least, worst = gradients(trainer, source, folder), 1.0, 1.0
    for key, parameter in net.named_parameters():
        if key not in found:  # dynamo reshapes the slope of PRelu and names it anew
            continue
        expected, got = parameter.grad.double().numpy().ravel(), found[key].ravel()
        lengths = np.linalg.norm(expected), np.linalg.norm(got)
        cosine, ratio = (expected @ got / (lengths[0] * lengths[1]), lengths[1] / lengths[0]) if min(lengths) > 0 else (0.0, 0.0)
        least, worst = min(least, cosine), ratio if abs(ratio - 1) > abs(worst - 1) else worst
        bounds.hold(cosine >= COSINE, f"{name} {key}: cosine {cosine:.5f}, bound {COSINE}")
        bounds.hold(abs(ratio - 1) <= LENGTH, f"{name} {key}: length ratio {ratio:.4f}, bound 1 ± {LENGTH}")
    exported = int8_of(trainer, folder, x)
    bounds.hold(exported == "equal", f"{name}: int8 export {exported}")
    print(f"{name:13s} outputs {error:.4f}  gradients: least cosine {least:.5f}, farthest length {worst:.4f}  int8 {exported}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=",".join(FUNCTIONS))
    parser.add_argument("--exporter", default="17")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bounds = common.Bounds()
    for name in arguments.functions.split(","):
        with tempfile.TemporaryDirectory() as folder:
            check(name, arguments.exporter, folder, bounds)
    bounds.close()


main()
