#!/usr/bin/env python3
"""trajectory.py [--models mlp,lenet5] [--epochs 5] [--seeds 3] [--repeats 1] [--short]: does integer training follow float32?

For each model and seed, from the same initial weights on the same batches with the same hyper-parameters (batch 128, momentum 0.9, cosine rate by
step): PyTorch float32, PyTorch float32 from weights changed by 0.1 %, and the intc trainer. Prints accuracy on the test set, the distance of the
loss curves (mean over the run of the absolute difference, smoothed over 50 steps) and the signed gap (mean difference, integer minus float; perturbed minus float beside it).
Exits 1 unless, for each model: mean accuracy is within 0.3 points of float, the mean distance is at most 1.5 times the perturbed run's, and the gap
does not have the same sign for all seeds. Distances of single runs scatter by a factor of three; --repeats N takes, for each seed, the mean over N
perturbations and N seeds of the stochastic rounding. --short (one epoch, two seeds, three repeats) is too short for statistics on signs and leaves that bound out,
saying so."""
import argparse
import copy
import tempfile
import time

import numpy as np
import torch

import common
import export

RATES = {"mlp": 0.05, "lenet5": 0.02}
WINDOW = 50
TABLE = "{:7.2f} {:9.2f} {:8.2f} {:9.4f} {:9.4f} {:+9.4f} {:+9.4f}"


def smooth(losses):
    return np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")


def perturbed(net, seed, repeat):
    other, noise = copy.deepcopy(net), torch.Generator().manual_seed(99 + seed + 1000 * repeat)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 1e-3 * torch.randn(p.shape, generator=noise))
    return other


def train_intc(net, name, seeds, data, indices, folder):
    """For each seed of the rounding: the losses of every step, and the accuracy on the test set."""
    images, labels, test_images, test_labels = data
    export.export(net, name, f"{folder}/model.onnx")
    common.compile_model(f"{folder}/model.onnx", f"{folder}/trainer")
    np.save(f"{folder}/x.npy", images[indices.reshape(-1)])
    np.save(f"{folder}/y.npy", labels[indices.reshape(-1)])
    np.save(f"{folder}/xt.npy", test_images)
    pixels = ("--mean", common.MEAN, "--std", common.STD)
    runs = []
    for seed in seeds:
        common.run(f"{folder}/trainer", "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", *pixels, "--epochs", 1, "--shuffle", "off",
                   "--lr", RATES[name], "--momentum", 0.9, "--lr-schedule", "cosine", "--seed", seed, "--log", f"{folder}/log.csv",
                   "--checkpoint", f"{folder}/c.ckpt")
        common.run(f"{folder}/trainer", "predict", "--data", f"{folder}/xt.npy", *pixels, "--checkpoint", f"{folder}/c.ckpt", "--output", f"{folder}/p.npy")
        losses = common.read_log(f"{folder}/log.csv")
        if len(losses) != len(indices):
            raise SystemExit(f"the log has {len(losses)} losses for {len(indices)} steps")
        runs.append((losses, common.accuracy_of(np.load(f"{folder}/p.npy"), test_labels)))
    return runs


def train_float(net, name, data, indices):
    images, labels, test_images, test_labels = data
    return common.train_torch(net, images, labels, indices, RATES[name]), common.accuracy_torch(net, test_images, test_labels)


def against(runs, reference):
    """Means over the runs: accuracy, distance to the reference curve, signed gap."""
    differences = [smooth(losses) - smooth(reference) for losses, _ in runs]
    return (np.mean([accuracy for _, accuracy in runs]), np.mean([np.abs(d).mean() for d in differences]), np.mean([d.mean() for d in differences]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="mlp,lenet5")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.epochs, arguments.seeds = 1, 2
        arguments.repeats = max(arguments.repeats, 3)
    torch.set_num_threads(1)
    data = common.fashion_mnist()
    images = data[0]
    bounds = common.Bounds()
    print(f"{'model':8s} {'seed':>4s} {'float':>7s} {'perturbed':>9s} {'integer':>8s} {'distance':>9s} {'perturbed':>9s} {'gap':>9s} {'perturbed':>9s}", flush=True)
    for name in arguments.models.split(","):
        rows = []
        for seed in range(1, arguments.seeds + 1):
            start = export.make(name, seed)
            indices = common.batches(len(images), arguments.epochs, seed)
            reference, accuracy = train_float(copy.deepcopy(start), name, data, indices)
            chaos = against([train_float(perturbed(start, seed, r), name, data, indices) for r in range(arguments.repeats)], reference)
            with tempfile.TemporaryDirectory() as folder:
                begin = time.time()
                integer = against(train_intc(start, name, [seed + 1000 * r for r in range(arguments.repeats)], data, indices, folder), reference)
                seconds = time.time() - begin
            rows.append((accuracy, chaos[0], integer[0], integer[1], chaos[1], integer[2], chaos[2]))
            print(f"{name:8s} {seed:4d} " + TABLE.format(*rows[-1]) + f"   ({seconds:.0f} s)", flush=True)
        mean = np.mean(rows, axis=0)
        print(f"{name:8s} mean " + TABLE.format(*mean) + f"   accuracy {mean[2] - mean[0]:+.2f}, distance {mean[3] / mean[4]:.2f} of perturbed", flush=True)
        gaps = [row[5] for row in rows]
        bounds.hold(abs(mean[2] - mean[0]) <= 0.3, f"{name}: mean accuracy is {mean[2] - mean[0]:+.2f} points from float, bound 0.3")
        bounds.hold(mean[3] <= 1.5 * mean[4], f"{name}: curves are {mean[3] / mean[4]:.2f} times as far apart as perturbed float, bound 1.5")
        if arguments.short:
            print(f"{name}: left out in the short form: no gap of one sign over all seeds")
        else:
            bounds.hold(min(gaps) < 0 < max(gaps), f"{name}: the gap has one sign over all seeds: {' '.join(f'{g:+.4f}' for g in gaps)}")
    bounds.close()


main()
