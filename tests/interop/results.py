#!/usr/bin/env python3
"""results.py [--only MODEL-KIND-SEED,…] [--runs FOLDER] [--device cpu|cuda] [--threads N] [--report]: integer against float32 training on CIFAR-10.

A run is named by model, kind and seed: `float` is PyTorch float32, `perturbed` the same from initial weights changed by 0.1 %, `bf16` the same under
PyTorch's bf16 autocast, `intN` the intc trainer compiled with --bits=N. All runs of one model and seed have the same initial weights, batches, augmentation and hyper-parameters. Each run is
kept in FOLDER (default docs/results) as MODEL-KIND-SEED.csv, the loss averaged over every ten steps and the test accuracy, and is not repeated; runs
that are missing are made, or only those of --only, which may be made side by side. Then docs/results.md is written anew from all runs of FOLDER.
--device: where PyTorch runs; on a GPU it is float32 too, never TF32. --threads: of a trainer, whose result does not depend on them."""
import argparse
import copy
import math
import os
import tempfile
import time

import numpy as np

import cifar
import common
import export
import results_report

SEEDS = (1, 2, 3)
MORE_SEEDS = {"mobilenetv2": (4, 5)}
BF16_SEEDS = {"vit_tiny": (1,)}
WIDTHS = {"resnet20": ((1, (7, 6, 5, 4)),), "mobilenetv2": ((1, (7, 6)), (2, (7,)), (3, (7,)))}
KEEP = 10


class Recipe:
    def __init__(self, epochs, rate, decay, batch=128, warmup=0):
        self.epochs, self.rate, self.decay, self.batch, self.warmup = epochs, rate, decay, batch, warmup


RECIPES = {
    "resnet20": Recipe(10, 0.1, 1e-4),
    "vgg7": Recipe(2, 0.05, 5e-4),
    "mobilenetv2": Recipe(1, 0.05, 4e-5),
    "vit_tiny": Recipe(1, 0.03, 0, warmup=100),
}


def rate_at(recipe, step, total):
    """The trainer's cosine schedule: a linear warm-up to the whole rate, then half a cosine over the steps that remain."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (total - recipe.warmup)))


def perturbed(net, seed):
    import torch
    other, noise = copy.deepcopy(net), torch.Generator().manual_seed(99 + seed)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 1e-3 * torch.randn(p.shape, generator=noise))
    return other


def run_float(net, recipe, data, indices, seed, trained=lambda name: True, device="cpu", bf16=False):
    """Losses of every step and accuracy on the test set, PyTorch float32, or bf16 autocast, in channels-last order; `trained` tells the parameters
    that learn."""
    import torch
    import torch.nn.functional as F
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.allow_tf32 = False
    net = net.to(device, memory_format=torch.channels_last).train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(trained(name))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=recipe.rate, momentum=0.9, weight_decay=recipe.decay)
    losses = []
    for step, (batch, index) in enumerate(zip(cifar.augmented(data[0], indices, seed), indices)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(recipe, step, len(indices))
        x = torch.from_numpy(cifar.standardise(batch)).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(x), torch.from_numpy(data[1][index].astype(np.int64)).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    net.eval()
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        found = np.concatenate([net(torch.from_numpy(cifar.standardise(part)).to(device)).argmax(1).cpu().numpy() for part in np.array_split(data[2], 50)])
    return np.array(losses), float((found == data[3]).mean() * 100)


def run_integer(net, model, recipe, data, indices, seed, *options, threads=1):
    """The same from the trainer that intc makes with these options."""
    with tempfile.TemporaryDirectory() as folder:
        export.export(net, model, f"{folder}/model.onnx")
        common.compile_model(f"{folder}/model.onnx", f"{folder}/trainer", recipe.batch, *options)
        images = np.lib.format.open_memmap(f"{folder}/x.npy", "w+", np.uint8, (indices.size, *data[0].shape[1:]))
        for step, batch in enumerate(cifar.augmented(data[0], indices, seed)):
            images[step * recipe.batch:(step + 1) * recipe.batch] = batch
        images.flush()
        del images
        np.save(f"{folder}/y.npy", data[1][indices.reshape(-1)])
        np.save(f"{folder}/xt.npy", data[2])
        common.run(f"{folder}/trainer", "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", *cifar.pixels(), "--epochs", 1,
                   "--shuffle", "off", "--lr", recipe.rate, "--momentum", 0.9, "--weight-decay", f"{recipe.decay:f}", "--lr-schedule", "cosine",
                   "--warmup", recipe.warmup, "--seed", seed, "--threads", threads, "--log", f"{folder}/log.csv", "--checkpoint", f"{folder}/c.ckpt",
                   "--checkpoint-every", 100)
        common.run(f"{folder}/trainer", "predict", "--data", f"{folder}/xt.npy", *cifar.pixels(), "--checkpoint", f"{folder}/c.ckpt",
                   "--output", f"{folder}/p.npy")
        return common.read_log(f"{folder}/log.csv"), common.accuracy_of(np.load(f"{folder}/p.npy"), data[3])


def make(name, data, runs, device, threads):
    model, kind, seed = name.rsplit("-", 2)
    recipe, seed = RECIPES[model], int(seed)
    indices = cifar.orders(len(data[0]), recipe.batch, recipe.epochs, seed)
    net, start = export.make(model, seed), time.time()
    if kind.startswith("int"):
        losses, accuracy = run_integer(net, model, recipe, data, indices, seed, f"--bits={kind[3:]}", threads=threads)
    else:
        start_net = perturbed(net, seed) if kind == "perturbed" else net
        losses, accuracy = run_float(start_net, recipe, data, indices, seed, device=device, bf16=kind == "bf16")
    if len(losses) != len(indices):
        raise SystemExit(f"{name}: {len(losses)} losses for {len(indices)} steps")
    results_report.save(runs, name, losses, accuracy, KEEP)
    print(f"{name}: test accuracy {accuracy:.2f} %, {time.time() - start:.0f} s", flush=True)


def all_names():
    for model in RECIPES:
        for seed in SEEDS + MORE_SEEDS.get(model, ()):
            yield from (f"{model}-{kind}-{seed}" for kind in ("float", "int8", "perturbed"))
        for seed in BF16_SEEDS.get(model, ()):
            yield f"{model}-bf16-{seed}"
    for model, seeds in WIDTHS.items():
        yield from (f"{model}-int{bits}-{seed}" for seed, widths in seeds for bits in widths)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", default=os.path.join(common.ROOT, "docs", "results"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="make no run")
    arguments = parser.parse_args()
    names = [] if arguments.report else arguments.only.split(",") if arguments.only else list(all_names())
    missing = [name for name in names if not os.path.exists(results_report.path(arguments.runs, name))]
    data = cifar.load() if missing else None
    for name in missing:
        make(name, data, arguments.runs, arguments.device, arguments.threads)
    if not arguments.only:
        results_report.write(arguments.runs, RECIPES, list(all_names()), os.path.join(common.ROOT, "docs", "results.md"))


if __name__ == "__main__":
    main()
