#!/usr/bin/env python3
"""gradient_noise.py [--model mobilenetv2] [--steps 150] [--seed 1] [--roundings 6] [--batches 1] [--bits 8]: how true integer gradients are in
the middle of training.

The model is trained for so many steps of CIFAR-10 in integers, by the recipe of results.py. Then, for the next batches, its gradient is
taken in PyTorch float32, and in integers with so many seeds of the stochastic rounding: one step of SGD with a large rate tells it. For each
parameter, in lengths of the float32 gradient: the part of the mean integer gradient along it (1: none is lost), the rest of the difference
(what the forward pass's rounding to the nearest makes), the spread over roundings, and that of float32 over eight batches. Last the mean
over the weights of convolutions and products. Biases before a batch normalisation, whose gradient is zero, say nothing."""
import argparse
import os
import tempfile

import numpy as np

import cifar
import common
import export
import results

RATE = 1024
SPREAD = 8


def load(net, path):
    """The parameters and states of a float export."""
    import onnx
    import torch
    from onnx import numpy_helper
    values = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    net.load_state_dict({k: torch.from_numpy(values[k].copy()) if k in values else v for k, v in net.state_dict().items()})


def trained(folder, trainer, images, labels, seed, *options):
    """The float export of a trainer after one epoch over these images, in their order."""
    np.save(f"{folder}/x.npy", images)
    np.save(f"{folder}/y.npy", labels)
    common.run(trainer, "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", *cifar.pixels(), "--epochs", 1, "--shuffle", "off",
               "--seed", seed, "--calibrate", 1, "--save", f"{folder}/trained.onnx", "--format", "float", *options)
    return f"{folder}/trained.onnx"


def float_gradient(net, images, labels):
    import torch
    import torch.nn.functional as F
    state = {k: v.clone() for k, v in net.state_dict().items()}
    net.zero_grad()
    F.cross_entropy(net(torch.from_numpy(cifar.standardise(images))), torch.from_numpy(labels.astype(np.int64))).backward()
    net.load_state_dict(state)
    return {k: p.grad.numpy().astype(np.float64) for k, p in net.named_parameters()}


def integer_gradient(net, folder, trainer, images, labels, seed):
    import copy
    after = copy.deepcopy(net)
    load(after, trained(folder, trainer, images, labels, seed, "--lr", RATE))
    moved = dict(after.named_parameters())
    return {k: (p.detach().numpy().astype(np.float64) - moved[k].detach().numpy()) / RATE for k, p in net.named_parameters()}


def measures(exact, found, spread):
    """Projection, remaining difference, spread over roundings and over batches, all by the length of `exact`."""
    square = (exact ** 2).sum()
    mean = sum(found) / len(found)
    noise = sum(((x - mean) ** 2).sum() for x in found) / (len(found) - 1)
    rest = max(((mean - exact) ** 2).sum() - noise / len(found), 0)
    return np.array([(mean * exact).sum() / square, np.sqrt(rest / square), np.sqrt(noise / square), np.sqrt(spread / square)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mobilenetv2", choices=list(results.RECIPES))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--roundings", type=int, default=6)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--bits", type=int, default=8)
    arguments = parser.parse_args()
    recipe, seed, steps = results.RECIPES[arguments.model], arguments.seed, arguments.steps
    data = cifar.load()
    indices = cifar.orders(len(data[0]), recipe.batch, recipe.epochs, seed)[:steps + SPREAD]
    batches = list(zip(cifar.augmented(data[0], indices, seed), (data[1][i] for i in indices)))
    net = export.make(arguments.model, seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = os.path.join(folder, "trainer")
        for stage in range(2):
            export.export(net, arguments.model, f"{folder}/model.onnx")
            common.compile_model(f"{folder}/model.onnx", trainer, recipe.batch, f"--bits={arguments.bits}")
            if stage == 0 and steps > 0:
                images, labels = (np.concatenate(part) for part in zip(*batches[:steps]))
                load(net, trained(folder, trainer, images, labels, seed, "--lr", recipe.rate, "--momentum", 0.9, "--weight-decay",
                                  f"{recipe.decay:f}"))
        net.train()
        exact = [float_gradient(net, *batch) for batch in batches[steps:]]
        middle = {k: sum(g[k] for g in exact) / SPREAD for k in exact[0]}
        spread = {k: sum(((g[k] - middle[k]) ** 2).sum() for g in exact) / (SPREAD - 1) for k in middle}
        rows = {k: 0 for k in middle}
        for number, batch in enumerate(batches[steps:steps + arguments.batches]):
            found = [integer_gradient(net, folder, trainer, *batch, 1000 + i) for i in range(arguments.roundings)]
            for k in rows:
                rows[k] = rows[k] + measures(exact[number][k], [g[k] for g in found], spread[k]) / arguments.batches
    print(f"{'parameter':24s} projection  rest  roundings  batches")
    for name, row in rows.items():
        print(f"{name:24s} {row[0]:10.4f} {row[1]:5.3f} {row[2]:10.3f} {row[3]:8.3f}")
    weights = [row for name, row in rows.items() if dict(net.named_parameters())[name].dim() > 1]
    print("{:24s} {:10.4f} {:5.3f} {:10.3f} {:8.3f}".format("mean of weights", *np.mean(weights, axis=0)))


if __name__ == "__main__":
    main()
