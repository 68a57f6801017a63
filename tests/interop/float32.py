#!/usr/bin/env python3
"""float32.py [--models …] [--steps 40] [--short]: is --arith=float32 the trainer that PyTorch would be?

Each model is trained twice from the same weights on the same batches with SGD, momentum, Nesterov and weight decay: by PyTorch, float32, and by a
trainer compiled with --arith=float32. Prints the relative difference of the losses of the first step, of the first ten and of all, the
difference of the weights at the end (norm of the difference over the norm of what training changed), and of the outputs on new images. Two correct
float32 programs differ in the order of their sums, and training makes any difference grow; how fast is shown beside it by PyTorch again, the
farthest of three runs from weights changed in their last place (relative 2^-24); one flipped comparison can set any two runs apart. ONNX's BatchNormalization keeps the variance of the population, PyTorch's the unbiased one; the outputs
are compared with PyTorch under ONNX's. Exits 1 unless the first loss differs by at most 1e-6 and every other measure by at most
3 times what the changed weights make, plus 4e-6. Also: resuming gives the same bytes, and int8 export is refused in a sentence.

NAME:frozen trains with --batchnorm=frozen, PyTorch with its batch normalisation in inference mode, from running statistics of real images; they
must not change."""
import argparse
import copy
import subprocess
import tempfile

import numpy as np
import onnx
import onnx.numpy_helper
import torch
import torch.nn.functional as F

import common
import export

RATES = {"lenet5": 0.02, "digits_resnet": 0.05, "digits_norms": 0.02}  # of others 0.002
MOMENTUM, DECAY, FIRST, FACTOR, LEAST = 0.9, 5e-4, 1e-6, 3, 4e-6


def data_of(name):
    """uint8 images and labels, mean and deviation of their pixels."""
    if name.startswith("digits"):
        images, labels = (np.load(f"{common.ROOT}/models/digits_train_{part}.npy") for part in ("images", "labels"))
        return images.reshape(len(images), 1, 8, 8), labels, 0.3, 0.35
    images, labels = common.fashion_mnist()[:2]
    if export.MODELS[name][1] == (3, 32, 32):
        images = np.repeat(np.pad(images[:8192], ((0, 0), (0, 0), (2, 2), (2, 2))), 3, 1) // 2
        images += np.random.default_rng(1).integers(0, 128, images.shape, np.uint8)  # plain areas would make ties that rounding decides
    return images, labels, common.MEAN, common.STD


def standardise(images, mean, std):
    return torch.from_numpy((images.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std))


def batch_norms(net):
    return [m for m in net.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]


def keep_population_variance(net):
    """Running variances as ONNX defines them; they decide the outputs of inference alone."""
    def update(module, inputs):
        if module.training:
            x = inputs[0].detach()
            variance = x.var([d for d in range(x.dim()) if d != 1], unbiased=False)
            module.population += module.momentum * (variance - module.population)
        else:
            module.running_var.copy_(module.population)
    for module in batch_norms(net):
        module.population = module.running_var.clone()
        module.register_forward_pre_hook(update)


def collect_statistics(net, x, batch):
    """Running statistics of real images, so that freezing them means something."""
    net.train()
    with torch.no_grad():
        for first in range(0, len(x), batch):
            net(x[first:first + batch])


def train_torch(net, x, y, rate, batch, frozen):
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    losses = []
    keep_population_variance(net)
    net.train()
    for module in batch_norms(net) if frozen else []:
        module.eval()
    for first in range(0, len(x), batch):
        loss = F.cross_entropy(net(x[first:first + batch]), y[first:first + batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def take_buffers(net, path):
    """The running statistics of a model file: the exporter's own run through the network changes them."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, buffer in net.named_buffers():
        if name in tensors:
            buffer.copy_(torch.from_numpy(tensors[name].copy()))


def train_intc(images, labels, mean, std, rate, batch, folder, *options):
    """Losses, and the model that it exports."""
    common.compile_model(f"{folder}/model.onnx", f"{folder}/trainer", batch, "--arith=float32", *options)
    np.save(f"{folder}/x.npy", images)
    np.save(f"{folder}/y.npy", labels)
    train = [f"{folder}/trainer", "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", "--mean", mean, "--std", std, "--epochs", 1,
             "--shuffle", "off", "--lr", rate, "--momentum", MOMENTUM, "--nesterov", "--weight-decay", DECAY]
    common.run(*train, "--log", f"{folder}/log.csv", "--checkpoint", f"{folder}/c.ckpt", "--save", f"{folder}/out.onnx", "--format", "float")
    common.run(*train, "--max-steps", 7, "--checkpoint", f"{folder}/part.ckpt", "--threads", 1)
    common.run(*train, "--resume", f"{folder}/part.ckpt", "--checkpoint", f"{folder}/again.ckpt", "--threads", 2)
    same = open(f"{folder}/c.ckpt", "rb").read() == open(f"{folder}/again.ckpt", "rb").read()
    refused = subprocess.run([f"{folder}/trainer", "export", "--checkpoint", f"{folder}/c.ckpt", "-o", f"{folder}/no.onnx"], text=True, capture_output=True)
    return common.read_log(f"{folder}/log.csv"), onnx.load(f"{folder}/out.onnx"), same, refused


def outputs(folder, images, mean, std):
    np.save(f"{folder}/new.npy", images)
    common.run(f"{folder}/trainer", "predict", "--data", f"{folder}/new.npy", "--mean", mean, "--std", std, "--checkpoint", f"{folder}/c.ckpt",
               "--output", f"{folder}/p.npy")
    return np.load(f"{folder}/p.npy")


def same_statistics(model, net):
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return all(np.array_equal(tensors[name], buffer.numpy()) for name, buffer in net.named_buffers() if "running" in name)


def exported_weights(model, net):
    """The trained parameters in the order of net.parameters(), by their names in the model."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return [tensors[name] for name, _ in net.named_parameters()]


def distance(ours, theirs, start):
    """Difference of two sets of weights over the change since the start."""
    difference = sum(float(((a - b) ** 2).sum()) for a, b in zip(ours, theirs))
    change = sum(float(((b - c) ** 2).sum()) for b, c in zip(theirs, start))
    return (difference / change) ** 0.5


def changed_in_last_place(net, seed):
    changed, noise = copy.deepcopy(net), torch.Generator().manual_seed(3 + seed)
    with torch.no_grad():
        for p in changed.parameters():
            p.copy_(p.double() * (1 + 2.0 ** -24 * torch.randn(p.shape, generator=noise, dtype=torch.float64)))
    return changed


def weights(net):
    return [p.detach().numpy().astype(np.float64) for p in net.parameters()]


def logits(net, x):
    net.eval()
    with torch.no_grad():
        return net(x).numpy()


def measures(losses, trained, predicted, reference, net, start, expected):
    relative = np.abs(losses - reference) / reference
    return [relative[0], relative[:10].max(), relative.max(), distance(trained, weights(net), start),
            float(np.abs(predicted - expected).max() / np.abs(expected).max())]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="lenet5,digits_resnet,digits_resnet:frozen,digits_norms,resnet20")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.models, arguments.steps = "lenet5,digits_resnet,digits_resnet:frozen,digits_norms", 20
    torch.set_num_threads(1)
    bounds = common.Bounds()
    print(f"{'model':20s} {'':9s} {'loss 1':>8s} {'to 10':>8s} {'all':>8s} {'weights':>8s} {'outputs':>8s}   (relative differences to PyTorch)")
    for spec in arguments.models.split(","):
        name, _, mode = spec.partition(":")
        frozen, rate = mode == "frozen", RATES.get(name, 0.002)
        images, labels, mean, std = data_of(name)
        batch = 32
        count = min(arguments.steps, len(images) // batch - 1) * batch
        start = export.make(name, 1)
        x, y = standardise(images[:count], mean, std), torch.from_numpy(labels[:count].astype(np.int64))
        new = standardise(images[count:count + batch], mean, std)
        if frozen:
            collect_statistics(start, x, batch)
        folder = tempfile.TemporaryDirectory()
        export.export(copy.deepcopy(start), name, f"{folder.name}/model.onnx")
        take_buffers(start, f"{folder.name}/model.onnx")
        net, before = copy.deepcopy(start), weights(start)
        reference = train_torch(net, x, y, rate, batch, frozen)
        expected = logits(net, new)
        theirs = np.zeros(5)
        for seed in range(3):
            changed = changed_in_last_place(start, seed)
            losses = train_torch(changed, x, y, rate, batch, frozen)
            theirs = np.maximum(theirs, measures(losses, weights(changed), logits(changed, new), reference, net, before, expected))
        losses, model, same, refused = train_intc(images[:count], labels[:count], mean, std, rate, batch, folder.name,
                                                 *(["--batchnorm=frozen"] if frozen else []))
        predicted = outputs(folder.name, images[count:count + batch], mean, std).reshape(expected.shape)
        folder.cleanup()
        ours = measures(losses, exported_weights(model, net), predicted, reference, net, before, expected)
        for who, row in (("intc", ours), ("last place", theirs)):
            print(f"{spec:20s} {who:10s}" + "".join(f" {v:8.1e}" for v in row), flush=True)
        bounds.hold(ours[0] <= FIRST, f"{spec}: the first loss differs by {ours[0]:.1e}")
        for what, a, b in zip(("losses to step 10", "losses", "weights", "outputs"), ours[1:], theirs[1:]):
            bounds.hold(a <= FACTOR * b + LEAST, f"{spec}: {what} differ by {a:.1e}, a change in the last place makes {b:.1e}")
        bounds.hold(not frozen or same_statistics(model, start), f"{spec}: frozen statistics changed")
        bounds.hold(same, f"{spec}: a resumed run ends in other bytes")
        bounds.hold(refused.returncode == 1 and "float32" in refused.stderr and refused.stderr.count("\n") == 1, f"{spec}: int8 export is not refused")
    bounds.close()


main()
