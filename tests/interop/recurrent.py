#!/usr/bin/env python3
"""recurrent.py [--only NAME,…]: recurrent networks against PyTorch.

LSTM, GRU and RNN, of one direction and of two, stacked, with a linear layer on the last step, exported in training mode. By the interpreter's real mode
(`real_step`) the loss is within 1e-4 of PyTorch's in double precision, and of every parameter's gradient max |found - expected| within 1e-4 of max
|expected|. The compiled step equals the interpreter's integer mode (`step`) bit for bit over five steps. The nets are also trained on made-up
sequences, in integers and in float32 with the same options: the integer loss ends at most 0.1 above; and the int8 export equals `predict` bit for bit in
ONNX Runtime. Exit status 77 where PyTorch is missing. REAL_STEP and STEP name the
programs (default build/tests/e2e/real_step and step)."""
import argparse
import contextlib
import io
import os
import sys
import tempfile
import warnings

import numpy as np

try:
    import torch
    from torch import nn
except ImportError:
    print("skipped: PyTorch is missing")
    sys.exit(77)
import common

BOUND = 1e-4
BATCH, STEPS, FEATURES, HIDDEN, CLASSES = 8, 6, 5, 7, 3
RATE = 0.01
REAL_STEP = os.path.abspath(os.environ.get("REAL_STEP", os.path.join(common.ROOT, "build", "tests", "e2e", "real_step")))
STEP = os.path.abspath(os.environ.get("STEP", os.path.join(common.ROOT, "build", "tests", "e2e", "step")))


class Classifier(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layer = kind(FEATURES, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), CLASSES)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


NETS = {
    "rnn": (nn.RNN, {}), "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}), "lstm": (nn.LSTM, {}), "gru": (nn.GRU, {}),
    "lstm_bidirectional": (nn.LSTM, {"bidirectional": True}), "gru_bidirectional": (nn.GRU, {"bidirectional": True}),
    "lstm_stacked": (nn.LSTM, {"num_layers": 2}), "gru_without_bias": (nn.GRU, {"bias": False}),
}


def export(net, x, path, dynamo):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(net, (x,), path, dynamo=True, external_data=False)
        else:
            torch.onnx.export(net, (x,), path, dynamo=False, opset_version=17, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)


def gradients(net, x, y):
    """Largest relative differences of the loss and of a gradient."""
    net.double()
    loss = nn.functional.cross_entropy(net(x.double()), y)
    loss.backward()
    net.float()
    expected = {name: p.grad.double().numpy().ravel() for name, p in net.named_parameters()}
    x.double().numpy().tofile("x.bin")
    y.numpy().tofile("y.bin")
    place, data = 0, None
    lines = common.run(REAL_STEP, "net.onnx", "x.bin", "y.bin", "g.bin").splitlines()
    found, worst = {}, 0.0
    data = np.fromfile("g.bin")
    for line in lines:
        kind, count, *name = line.split(" ", 2)
        if kind == "loss":
            off = abs(float(count) - loss.item()) / abs(loss.item())
        elif kind == "gradient":
            found[name[0]] = data[place:place + int(count)]
            place += int(count)
    if sorted(found) != sorted(expected):
        return off, float("inf")
    for name, wanted in expected.items():
        length, error = np.abs(wanted).max(), np.abs(found[name] - wanted).max()
        worst = max(worst, error / length if length > 0 else float(error > 0))  # the backward direction of the last step sees no state: zero
    return off, worst


def native():
    """The number of tensors that differ, as `step` prints it."""
    common.run(common.INTC, "net.onnx", "--loss=auto", "--stop-after=memplan", "-o", "net.ir")
    common.run(common.INTC, "net.onnx", "--loss=auto", "--emit=obj", "-o", "net.o")
    common.run("cc", "-shared", "net.o", "-o", "net.so")
    return common.run(STEP, "net.ir", os.path.abspath("net.so"), 5, 2).strip()


def trained(rng):
    """The losses at the end, of float32 and of integers, and whether the int8 export equals `predict`; the label is the feature with the largest sum."""
    import onnxruntime
    x = rng.normal(size=(512, STEPS, FEATURES)).astype(np.float32)
    y = x.sum(1)[:, :CLASSES].argmax(1).astype(np.int64)
    np.save("x.npy", x)
    np.save("y.npy", y)
    losses = []
    for arith, export_options in (("float32", []), ("int8", ["--checkpoint", "state", "--save", "int8.onnx", "--format", "int8"])):
        common.run(common.INTC, "net.onnx", "--loss=auto", *(["--arith=float32"] if arith == "float32" else []), "-o", "trainer")
        out = common.run("./trainer", "train", "--data", "x.npy", "--target", "y.npy", "--epochs", 20, "--lr", RATE, "--momentum", 0.9, "--seed", 1,
                         *export_options)
        losses.append(float(out.split("final: loss ")[1].split(",")[0]))
    common.run("./trainer", "predict", "--checkpoint", "state", "--data", "x.npy", "-o", "predicted.npy")
    session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    ours = np.concatenate([session.run(None, {name: x[k:k + BATCH]})[0] for k in range(0, len(x), BATCH)])
    return *losses, bool((ours == np.load("predicted.npy")).all())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(NETS))
    failed = False
    for name in parser.parse_args().only.split(","):
        kind, options = NETS[name]
        torch.manual_seed(1)
        net = Classifier(kind, **options).train()
        x, y = torch.randn(BATCH, STEPS, FEATURES), torch.arange(BATCH) % CLASSES
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            export(net, x, "net.onnx", False)
            off, worst = gradients(net, x, y)
            steps = native()
            export(net, x, "net.onnx", True)
            single, loss, equal = trained(np.random.default_rng(2))
        good = off <= BOUND and worst <= BOUND and steps.endswith(" 0 tensors differ") and loss <= single + 0.1 and equal
        print(f"{name:20} loss {off:.1e}, gradients {worst:.1e}; {steps}; trained to {loss:.3f}, float32 {single:.3f}; int8 {'equal' if equal else 'DIFFERS'}"
              f"{'' if good else '  FAILED'}")
        failed = failed or not good
    sys.exit(failed)


if __name__ == "__main__":
    main()
