#!/usr/bin/env python3
"""export.py [--out DIR] [--seed N] [--exporter legacy|dynamo|both] [NAME...]: writes the small models of this folder from PyTorch.

Needs torch, onnx and onnxscript. The same seed gives the same weights; without names the files kept in the repository are written.
The legacy exporter writes a dynamic batch. The dynamo exporter writes the batch FIXED_BATCH into its Reshape constants, except for the
models in DYNAMIC, so that both ways in which users' files arrive are here."""
import argparse
import os
import tempfile
import warnings

import torch
from torch import nn

FIXED_BATCH = 4
DYNAMIC = {"vgg"}


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def mlp_bench():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def lenet5():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def vgg():
    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*block(1, 8), *block(8, 16), nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


def digits_mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits_cnn():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
                         nn.Flatten(), nn.Linear(64, 10))


class Block(nn.Module):
    """The basic block of ResNet (He et al. 2015), a 1×1 convolution on the shortcut where the shape changes."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
                                  nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
        same = stride == 1 and i == o
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(channels, widths, depth):
    layers, last = [nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()], widths[0]
    for number, width in enumerate(widths):
        for k in range(depth):
            layers.append(Block(last, width, 2 if number > 0 and k == 0 else 1))
            last = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10))


def digits_resnet():
    return resnet(1, (8, 16), 1)


def resnet20():
    return resnet(3, (16, 32, 64), 3)


def resnet18():
    """ResNet-18 for images of 224 pixels."""
    head = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks, last = [], 64
    for number, width in enumerate((64, 128, 256, 512)):
        for k in range(2):
            blocks.append(Block(last, width, 2 if number > 0 and k == 0 else 1))
            last = width
    return nn.Sequential(*head, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 1000))


def vgg7():
    """Six convolutions and a classifier, as the low-bit literature uses it, at half of its width."""
    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
                nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*block(3, 64), *block(64, 128), *block(128, 256), nn.Flatten(), nn.Linear(4096, 10))


class InvertedResidual(nn.Module):
    """The block of MobileNetV2 (Sandler et al. 2018): expand, depthwise, project."""

    def __init__(self, i, o, stride, expansion):
        super().__init__()
        hidden, layers = i * expansion, []
        if expansion > 1:
            layers += [nn.Conv2d(i, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.body = nn.Sequential(*layers, nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
                                  nn.Conv2d(hidden, o, 1, bias=False), nn.BatchNorm2d(o))
        self.same = stride == 1 and i == o

    def forward(self, x):
        return x + self.body(x) if self.same else self.body(x)


def mobilenetv2():
    """MobileNetV2 at full width with the stem and the first two stages of stride 1 that images of 32 pixels need."""
    layers, last = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()], 32
    for expansion, width, depth, stride in ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for k in range(depth):
            layers.append(InvertedResidual(last, width, stride if k == 0 else 1, expansion))
            last = width
    return nn.Sequential(*layers, nn.Conv2d(last, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(1280, 10))


class Encoder(nn.Module):
    """A pre-norm block of a vision transformer (Dosovitskiy et al. 2021)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, size, patch, width, depth, heads):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*[Encoder(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit_tiny():
    return ViT(32, 4, 192, 12, 3)


def vit_small():
    """Four blocks: what a few hundred steps on one core can show."""
    return ViT(32, 4, 96, 4, 3)


def digits_norms():
    """Every other normalisation, and batch normalisation in front of a convolution and of rows."""
    return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
                         nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                         nn.Linear(128, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


# Maker, shape of one sample, exporters whose file is kept in the repository.
MODELS = {
    "mlp": (mlp, (1, 28, 28), ("legacy",)),
    "mlp_bench": (mlp_bench, (1, 28, 28), ()),
    "lenet5": (lenet5, (1, 28, 28), ("legacy", "dynamo")),
    "vgg": (vgg, (1, 28, 28), ("legacy", "dynamo")),
    "digits_mlp": (digits_mlp, (1, 8, 8), ("legacy", "dynamo")),
    "digits_cnn": (digits_cnn, (1, 8, 8), ("legacy", "dynamo")),
    "digits_resnet": (digits_resnet, (1, 8, 8), ("legacy",)),
    "digits_norms": (digits_norms, (1, 8, 8), ("legacy",)),
    "resnet20": (resnet20, (3, 32, 32), ()),
    "resnet18": (resnet18, (3, 224, 224), ()),
    "vgg7": (vgg7, (3, 32, 32), ()),
    "mobilenetv2": (mobilenetv2, (3, 32, 32), ()),
    "vit_tiny": (vit_tiny, (3, 32, 32), ()),
    "vit_small": (vit_small, (3, 32, 32), ()),
}


def make(name, seed):
    """The network with PyTorch's own initialisation from `seed`."""
    torch.manual_seed(seed)
    return MODELS[name][0]()


def export(net, name, path, exporter="legacy"):
    """Writes net, made by make(name, …), to path with all weights inside the file."""
    import onnx  # here, so that whoever only wants a network does not load it
    shape = MODELS[name][1]
    net.train()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        draft = os.path.join(folder, "model.onnx")
        sample = torch.zeros(FIXED_BATCH, *shape)
        if exporter == "legacy":
            torch.onnx.export(net, (sample,), draft, dynamo=False, input_names=["image"], output_names=["logits"],
                              training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                              dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})
        else:
            shapes = ({0: torch.export.Dim("batch")},) if name in DYNAMIC else None
            torch.onnx.export(net, (sample,), draft, dynamo=True, input_names=["image"], output_names=["logits"],
                              dynamic_shapes=shapes, external_data=False, verbose=False)
        model = onnx.load(draft)
    strip_traces(model)
    onnx.checker.check_model(model, full_check=True)
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def strip_traces(model):
    """Stack traces name files of the exporting machine and are of no use to anybody else."""
    graph = model.graph
    for holder in [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        kept = [entry for entry in holder.metadata_props if "stack_trace" not in entry.key]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exporter", choices=["legacy", "dynamo", "both"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(MODELS))
    arguments = parser.parse_args()
    for name in arguments.names or MODELS:
        kept = MODELS[name][2]
        if arguments.exporter or arguments.names:
            kept = ("legacy", "dynamo") if arguments.exporter in (None, "both") else (arguments.exporter,)
        for exporter in kept:
            path = os.path.join(arguments.out, name + ("_dynamo" if exporter == "dynamo" else "") + ".onnx")
            export(make(name, arguments.seed), name, path, exporter)
            print(f"{path}: {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
