#!/usr/bin/env python3
"""finetune.py [--models resnet20,vit_small] [--steps 200] [--seed 1] [--short]: fine-tuning on new classes, integer against float32.

A network learns the first five classes of CIFAR-10 in PyTorch, gets a new classifier, and learns the other five: once with its last blocks and the
classifier alone (`--train` names them), once as a whole; in PyTorch float32, in PyTorch from weights changed by 0.1 %, and in the trainer that intc
makes of it, on the same batches. Prints the test accuracies and the distances of the loss curves, smoothed over 50 steps. Exits 1 unless every integer
curve is at most twice as far from float32 as the perturbed one, and its accuracy as near to float32 as 0.5 points or the perturbed run is."""
import argparse
import copy
import fnmatch

import numpy as np
import torch

import cifar
import common
import export
import results

RATES = {"resnet20": 0.05, "vit_small": 0.03}
LAST = {"resnet20": ("10.*", "11.*", "14.*"), "vit_small": ("blocks.3.*", "norm.*", "head.*")}
WINDOW = 50


def classes(data, first):
    """Images and labels of five classes, as labels 0 to 4."""
    parts = []
    for images, labels in (data[:2], data[2:]):
        chosen = (labels >= first) & (labels < first + 5)
        parts += [images[chosen], labels[chosen] - first]
    return parts


def new_classifier(net):
    """The last linear layer drawn anew."""
    [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)][-1].reset_parameters()


def distance(losses, reference):
    smooth = [np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid") for curve in (losses, reference)]
    return float(np.abs(smooth[0] - smooth[1]).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet20,vit_small")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="vit_small, 80 steps")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.models, arguments.steps = "vit_small", 80
    data, bounds, seed = cifar.load(), common.Bounds(), arguments.seed
    before, after = classes(data, 0), classes(data, 5)
    print(f"{'model':10s} {'learns':7s} {'float %':>8s} {'perturbed':>9s} {'integer':>8s} {'distance':>9s} {'perturbed':>9s}")
    for model in arguments.models.split(","):
        recipe = results.Recipe(2, RATES[model], 0, warmup=20)
        first, second = (cifar.orders(len(part[0]), recipe.batch, recipe.epochs, seed + n)[:arguments.steps] for n, part in enumerate((before, after)))
        net = export.make(model, seed)
        results.run_float(net, recipe, before, first, seed)
        net = net.to(memory_format=torch.contiguous_format)
        torch.manual_seed(seed)
        new_classifier(net)
        for learns, patterns in (("last", LAST[model]), ("all", ("*",))):
            def trained(name):
                return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
            reference, accuracy = results.run_float(copy.deepcopy(net), recipe, after, second, seed, trained)
            chaos, other = results.run_float(results.perturbed(net, seed), recipe, after, second, seed, trained)
            integer, mine = results.run_integer(copy.deepcopy(net), model, recipe, after, second, seed, "--train=" + ",".join(patterns))
            far, near = distance(integer, reference), distance(chaos, reference)
            print(f"{model:10s} {learns:7s} {accuracy:8.2f} {other:9.2f} {mine:8.2f} {far:9.4f} {near:9.4f}", flush=True)
            bounds.hold(far <= 2 * near, f"{model}, {learns}: {far / near:.2f} times as far from float32 as perturbed float, bound 2")
            bounds.hold(abs(mine - accuracy) <= max(0.5, abs(other - accuracy)), f"{model}, {learns}: accuracy {mine - accuracy:+.2f} points from float32")
    bounds.close()


main()
