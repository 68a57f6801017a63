#!/usr/bin/env python3
"""gradients.py [--models …]: every parameter's gradient against PyTorch's.

One step of plain SGD on one batch; the gradient is what the step changed, (before - after) / rate, read from float exports and averaged over a few
seeds of the stochastic rounding. PyTorch computes the gradient of the same weights on the same batch twice: in plain float32, and with the operands
of the forward pass rounded to 8 bits as docs/numerics.md has it (gradients pass through the rounding unchanged). Against the second only the
stochastic rounding is left, so the bounds on angle and length are tight (and the outputs of the untrained model must be equal); against the first the rounding of the operands adds what
it adds in any 8-bit forward pass, and the bound only tells a right gradient from a wrong one. A gradient that is zero on either side is a failure."""
import argparse
import math
import tempfile

import numpy as np
import onnx
import onnx.numpy_helper
import torch
import torch.nn.functional as F
from torch import nn

import common
import export

COSINE, LENGTH = 0.998, 0.02
COSINE_FLOAT = 0.9
ROUNDINGS = 16
RATE = 4.0


class Round(torch.autograd.Function):
    """To multiples of `step`, half to even; the gradient goes through."""
    @staticmethod
    def forward(ctx, x, step):
        return torch.round(x / step) * step

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def step_of(x, bits):
    """The least power of two of which the largest |x|, rounded, is at most 2^(bits-1) - 1."""
    largest, top = x.abs().max().item(), 2 ** (bits - 1) - 1
    step = 2.0 ** math.floor(math.log2(largest / top)) if largest > 0 else 1.0
    while round(largest / step) > top:
        step *= 2
    return step


def mapped(x, bits):
    """x in `bits` bits, and its step."""
    step = step_of(x.detach(), bits)
    return Round.apply(x, step), step


def rounded_forward(net, x, output_bits=8):
    """The net's output as the integer forward pass computes it: masters of 16 bits, operands of 8, biases brought to the accumulator's step, an
    activation before its rounding. The output goes into the loss with 8 bits, and is a prediction with 16. In float64, where such sums are exact."""
    x, step = mapped(x.double(), 8)
    layers = list(net)
    for layer, following in zip(layers, layers[1:] + [None]):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            weight, weight_step = mapped(mapped(layer.weight.double(), 16)[0], 8)
            bias = Round.apply(mapped(layer.bias.double(), 16)[0], step * weight_step)
            x = layer._conv_forward(x, weight, bias) if isinstance(layer, nn.Conv2d) else F.linear(x, weight, bias)
        else:
            x = layer(x)
        if not isinstance(layer, (nn.MaxPool2d, nn.Flatten)) and not isinstance(following, nn.ReLU):
            x, step = mapped(x, output_bits if following is None else 8)
    return x


def weights_of(path):
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def compare(expected, found):
    """Cosine and ratio of lengths; zeros where either is zero."""
    expected, found = expected.astype(np.float64).ravel(), found.ravel()
    lengths = np.linalg.norm(expected), np.linalg.norm(found)
    return (float(expected @ found / (lengths[0] * lengths[1])), float(lengths[1] / lengths[0])) if min(lengths) > 0 else (0.0, 0.0)


def step_changes(name, net, x, y, folder):
    """What one step changed, divided by the rate, as a mean over seeds: an array a parameter."""
    source, trainer = f"{folder}/{name}.onnx", f"{folder}/{name}"
    export.export(net, name, source)
    common.compile_model(source, trainer)
    np.save(f"{folder}/x.npy", x)
    np.save(f"{folder}/y.npy", y)
    before = weights_of(source)
    changed = {key: np.zeros(value.shape) for key, value in before.items()}
    for seed in range(1, ROUNDINGS + 1):
        common.run(trainer, "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", "--epochs", 1, "--lr", RATE, "--shuffle", "off",
                   "--seed", seed, "--checkpoint", f"{folder}/c.ckpt")
        common.run(trainer, "export", "--checkpoint", f"{folder}/c.ckpt", "-o", f"{folder}/after.onnx", "--format", "float")
        after = weights_of(f"{folder}/after.onnx")
        for key in changed:
            changed[key] += (before[key] - after[key]) / RATE / ROUNDINGS
    return changed


def check(name, folder, bounds):
    net = export.make(name, 3)
    images, labels, _, _ = common.fashion_mnist()
    images = images[:common.BATCH] if export.MODELS[name][1][1] == 28 else images[:common.BATCH, :, 6:22:2, 6:22:2]
    x, y = common.standardise(images), labels[:common.BATCH]
    changed = step_changes(name, net, x, y, folder)
    common.run(f"{folder}/{name}", "predict", "--data", f"{folder}/x.npy", "--output", f"{folder}/p.npy")
    differing = int((np.load(f"{folder}/p.npy") != rounded_forward(net, torch.from_numpy(x), 16).detach().numpy()).sum())
    bounds.hold(differing == 0, f"{name}: {differing} outputs differ from PyTorch's with rounded operands")
    gradients = []
    for forward in (rounded_forward, lambda n, data: n(data)):
        net.zero_grad()
        F.cross_entropy(forward(net, torch.from_numpy(x)), torch.from_numpy(y.astype(np.int64))).backward()
        gradients.append({key: parameter.grad.numpy().copy() for key, parameter in net.named_parameters()})
    for key in gradients[0]:
        cosine, ratio = compare(gradients[0][key], changed[key])
        plain_cosine, plain_ratio = compare(gradients[1][key], changed[key])
        print(f"{name:12s} {key:12s} rounded operands: cosine {cosine:.5f} length {ratio:.4f}   float32: cosine {plain_cosine:.5f} length {plain_ratio:.4f}", flush=True)
        bounds.hold(cosine >= COSINE, f"{name} {key}: cosine {cosine:.5f}, bound {COSINE}")
        bounds.hold(abs(ratio - 1) <= LENGTH, f"{name} {key}: length ratio {ratio:.4f}, bound 1 ± {LENGTH}")
        bounds.hold(plain_cosine >= COSINE_FLOAT, f"{name} {key}: cosine to float32 {plain_cosine:.5f}, bound {COSINE_FLOAT}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="digits_mlp,digits_cnn,mlp,lenet5,vgg")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bounds = common.Bounds()
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            check(name, folder, bounds)
    bounds.close()


main()
