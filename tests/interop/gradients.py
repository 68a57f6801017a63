#!/usr/bin/env python3
"""gradients.py [--models …]: every parameter's gradient against PyTorch's.

One step of plain SGD on one batch; the gradient is what the step changed, (before - after) / rate, read from float exports, against PyTorch's float32
gradient of the same weights on the same batch. What is left is the noise of 8-bit operands and stochastic rounding, so the bounds are on the angle
and the length of each parameter's gradient, averaged over a few seeds of the rounding; a wrong rule, a missing factor or a transposed
weight is far outside. A gradient that is zero on either side is a failure."""
import argparse
import tempfile

import numpy as np
import onnx
import onnx.numpy_helper
import torch
import torch.nn.functional as F

import common
import export

COSINE, LENGTH = 0.99, 0.03
ROUNDINGS = 8


def weights_of(path):
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def check(name, folder, bounds):
    net = export.make(name, 3)
    source, trainer = f"{folder}/{name}.onnx", f"{folder}/{name}"
    export.export(net, name, source)
    images, labels, _, _ = common.fashion_mnist()
    shape = export.MODELS[name][1]
    x = images[:common.BATCH, :, :shape[1], :shape[2]] if shape[1] == 28 else images[:common.BATCH, :, 6:22:2, 6:22:2]
    y = labels[:common.BATCH]
    np.save(f"{folder}/x.npy", common.standardise(x))
    np.save(f"{folder}/y.npy", y)
    F.cross_entropy(net(torch.from_numpy(common.standardise(x))), torch.from_numpy(y.astype(np.int64))).backward()
    common.compile_model(source, trainer)

    def step(rate, seed):
        common.run(trainer, "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", "--epochs", 1, "--lr", rate, "--shuffle", "off",
                   "--seed", seed, "--checkpoint", f"{folder}/c.ckpt")
        common.run(trainer, "export", "--checkpoint", f"{folder}/c.ckpt", "-o", f"{folder}/after.onnx", "--format", "float")
        return weights_of(f"{folder}/after.onnx")

    before = weights_of(source)
    rate = 4.0
    changed = {key: np.zeros(value.shape) for key, value in before.items()}
    for seed in range(1, ROUNDINGS + 1):
        after = step(rate, seed)
        for key in changed:
            changed[key] += (before[key] - after[key]) / rate / ROUNDINGS
    for key, parameter in net.named_parameters():
        expected, found = parameter.grad.numpy().astype(np.float64).ravel(), changed[key].ravel()
        lengths = np.linalg.norm(expected), np.linalg.norm(found)
        cosine = float(expected @ found / (lengths[0] * lengths[1])) if min(lengths) > 0 else 0.0
        ratio = lengths[1] / lengths[0] if lengths[0] > 0 else 0.0
        print(f"{name:12s} {key:12s} cosine {cosine:.5f}  length ratio {ratio:.4f}", flush=True)
        bounds.hold(cosine >= COSINE, f"{name} {key}: cosine {cosine:.5f}, bound {COSINE}")
        bounds.hold(abs(ratio - 1) <= LENGTH, f"{name} {key}: length ratio {ratio:.4f}, bound 1 ± {LENGTH}")


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
