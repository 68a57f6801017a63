#!/usr/bin/env python3
"""zoo.py [--only NAME,…] [--short] [--exporter legacy,dynamo] [--checks gradients,native,compile,step] [--rows FILE]

Networks of torchvision and timm, differentiated, compiled and stepped. Each is exported in training mode by the legacy exporter, or by dynamo
(optimize=False) where that refuses; dropout and stochastic depth are 0, the weights are the library's random ones. For each:

- gradients: the interpreter's real mode (`real_step`) on a small batch against PyTorch in double precision: the loss within 1e-4 relative, and of every
  parameter max |found - expected| within 1e-4 of max |expected|. Where PyTorch's gradient is zero but for rounding (below 1e-10 of the largest gradient
  of the network: a bias in front of batch normalisation, a key's bias in front of a softmax), max |found| must be below that too. A parameter that PyTorch
  gives no gradient must have none here, and the names of the two sides must be the same.
- native: the same small model compiled (-O0, for time); one step of the native code against the interpreter's integer mode (`step`), every parameter bit
  for bit.
- compile: images of 224x224, batch 4: the processor time of the compiler and the part of it that its passes take (in proportion to the clock), the arena
  that `info` states, the size of the program.
- step: one step of that trainer on random data; the loss within 1 % of PyTorch's in float32.

Prints one table; with --rows FILE also of the networks and checks of earlier runs, which that file keeps. Exit status 1 unless every bound holds, 77 where
torchvision or timm is missing. REAL_STEP and STEP name the programs (default build/tests/e2e/real_step and step)."""
import argparse
import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings

import numpy as np

try:
    import timm
    import torch
    import torchvision.models as models
except ImportError as missing:
    print(f"skipped: {missing.name} is missing")
    sys.exit(77)

import common

REAL_STEP = os.path.abspath(os.environ.get("REAL_STEP", os.path.join(common.ROOT, "build", "tests", "e2e", "real_step")))
STEP = os.path.abspath(os.environ.get("STEP", os.path.join(common.ROOT, "build", "tests", "e2e", "step")))
BOUND, ZERO, STEP_BOUND = 1e-4, 1e-10, 0.01
CLASSES, SIZE, BATCH = 1000, 224, 4

# Name: how it is made, and the image size and batch of the gradients. 224 where the architecture or its exporter is tied to that size.
NETS = {
    "resnet18": (models.resnet18, 64, 2),
    "resnet50": (models.resnet50, 64, 2),
    "mobilenet_v2": (models.mobilenet_v2, 64, 2),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 64, 2),
    "mobilenet_v3_large": (models.mobilenet_v3_large, 64, 2),
    "efficientnet_b0": (models.efficientnet_b0, 64, 2),
    "densenet121": (models.densenet121, 64, 2),
    "shufflenet_v2_x1_0": (models.shufflenet_v2_x1_0, 64, 2),
    "squeezenet1_1": (models.squeezenet1_1, 64, 2),
    "googlenet": (lambda: models.googlenet(init_weights=False), 224, 2),
    "vgg16": (models.vgg16, 224, 1),
    "convnext_tiny": (models.convnext_tiny, 64, 2),
    "vit_b_16": (models.vit_b_16, 224, 1),
    "swin_t": (models.swin_t, 224, 1),
    "deit_tiny_patch16_224": (lambda: timm.create_model("deit_tiny_patch16_224"), 224, 1),
}
SHORT = ("squeezenet1_1", "shufflenet_v2_x1_0", "mobilenet_v3_small")
COLUMNS = ("network", "parameters", "exporter", "compile s", "passes s", "arena MB", "program MB", "step loss", "float loss", "real loss", "gradients", "worst gradient", "native")


class Failed(Exception):
    """What went wrong, in one line."""


def make(name):
    """The network in training mode with every random drop at 0."""
    torch.manual_seed(1)
    net = NETS[name][0]().train()
    for module in net.modules():
        for key in ("p", "drop_prob", "dropout"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)
    return net


def batch(size, count):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, size, size, generator=generator), torch.randint(0, CLASSES, (count,), generator=generator)


def logits(net, x):
    """The first output: networks with auxiliary heads have several."""
    out = net(x)
    return out if isinstance(out, torch.Tensor) else out[0]


def loss_of(net, x, y):
    return torch.nn.functional.cross_entropy(logits(net, x), y)


@contextlib.contextmanager
def silent():
    """Nothing on the standard streams; the exporters print from C++ too."""
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as null:
        try:
            for stream, number in (sys.stdout, 1), (sys.stderr, 2):
                stream.flush()
                os.dup2(null.fileno(), number)
            yield
        finally:
            for stream, number in (sys.stdout, 1), (sys.stderr, 2):
                stream.flush()
                os.dup2(kept[number - 1], number)
                os.close(kept[number - 1])


def export(net, x, path, exporters):
    """The exporter that took it, and the name of the first output."""
    import onnx
    reasons = []
    for exporter in exporters:
        state = {key: value.clone() for key, value in net.state_dict().items()}
        try:
            with warnings.catch_warnings(), silent():
                warnings.simplefilter("ignore")
                if exporter == "legacy":
                    torch.onnx.export(net, (x,), path, dynamo=False, opset_version=20, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)
                else:
                    torch.onnx.export(net, (x,), path, dynamo=True, optimize=False, external_data=False)
            return exporter, onnx.load(path).graph.output[0].name
        except Exception as error:  # whatever an exporter raises, the other one may work
            reasons.append(f"{exporter}: {type(error).__name__} {str(error).strip().splitlines()[:1]}")
        finally:
            net.load_state_dict(state)
    raise Failed("; ".join(reasons))


def run(*command):
    """Standard output, standard error and seconds of the processor."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    start = used()
    done = subprocess.run([str(c) for c in command], text=True, capture_output=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [f"exit status {done.returncode}"]
        raise Failed(f"{os.path.basename(str(command[0]))}: {lines[0]}" + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""))
    return done.stdout, done.stderr, used() - start


def expected_gradients(net, x, y):
    net.double()
    net.zero_grad()
    loss = loss_of(net, x.double(), y)
    loss.backward()
    return loss.item(), {key: None if p.grad is None else p.grad.numpy().ravel() for key, p in net.named_parameters()}


def real_gradients(path, output, x, y, folder):
    x.double().numpy().tofile(f"{folder}/x.bin")
    y.numpy().tofile(f"{folder}/y.bin")
    lines, _, _ = run(REAL_STEP, path, f"{folder}/x.bin", f"{folder}/y.bin", f"{folder}/g.bin", output)
    loss, found, place = None, {}, 0
    data = np.memmap(f"{folder}/g.bin", np.float64, "r")
    for line in lines.splitlines():
        kind, count, *name = line.split(" ", 2)
        if kind == "loss":
            loss = float(count)
        elif kind == "none":
            found[name[0]] = None
        else:
            found[name[0]] = data[place:place + int(count)]
            place += int(count)
    return loss, found


def compare(expected, found):
    """The worst relative difference and its parameter; names that only one side has or that have a gradient on one side alone are a failure."""
    alone = sorted(set(expected) ^ set(found))
    if alone:
        raise Failed(f"{len(alone)} parameters on one side only: {', '.join(alone[:4])}")
    largest = max(np.abs(g).max() for g in expected.values() if g is not None)
    worst, where = 0.0, "-"
    for key, wanted in expected.items():
        if (wanted is None) != (found[key] is None):
            if wanted is not None and np.abs(wanted).max() <= ZERO * largest:
                continue
            raise Failed(f"{key} has a gradient {'here' if wanted is None else 'in PyTorch'} alone")
        if wanted is None:
            continue
        length = np.abs(wanted).max()
        error = np.abs(found[key]).max() / (ZERO * largest) * BOUND if length <= ZERO * largest else np.abs(found[key] - wanted).max() / length
        if not error <= worst:
            worst, where = float(error), key
    return worst, where


def check_native(row, folder, output):
    options = [f"--output={output}", f"{folder}/small.onnx", "-o"]
    run(common.INTC, "--stop-after=memplan", *options, f"{folder}/step.ir")
    run(common.INTC, "-O0", "--emit=obj", *options, f"{folder}/step.o")
    run("cc", "-shared", f"{folder}/step.o", "-o", f"{folder}/step.so")
    found = subprocess.run([STEP, f"{folder}/step.ir", f"{folder}/step.so", "1", "2"], text=True, capture_output=True)
    row["native"] = "equal" if found.returncode == 0 else "differs"
    if found.returncode != 0:
        raise Failed(f"native code and interpreter: {(found.stdout + found.stderr).strip().splitlines()[:2]}")


def check_small(name, row, bounds, folder, exporters, checks):
    _, size, count = NETS[name]
    net = make(name)
    x, y = batch(size, count)
    row["exporter"], output = export(net, x, f"{folder}/small.onnx", exporters)
    row["parameters"] = f"{sum(p.numel() for p in net.parameters()):,}"
    if "native" in checks:
        check_native(row, folder, output)
    if "gradients" not in checks:
        return
    loss, expected = expected_gradients(net, x, y)
    found_loss, found = real_gradients(f"{folder}/small.onnx", output, x, y, folder)
    relative = abs(found_loss - loss) / abs(loss)
    worst, where = compare(expected, found)
    row.update({"real loss": f"{relative:.0e}", "gradients": f"{worst:.0e}", "worst gradient": where})
    bounds.hold(relative <= BOUND, f"{name}: loss {found_loss}, PyTorch {loss}")
    bounds.hold(worst <= BOUND, f"{name}: gradient of {where} differs by {worst:.2g}")


def check_program(name, row, bounds, folder, exporters, step):
    net = make(name)
    x, y = batch(SIZE, BATCH)
    row["exporter"], output = export(net, x, f"{folder}/large.onnx", exporters)
    row["parameters"] = f"{sum(p.numel() for p in net.parameters()):,}"
    _, log, seconds = run(common.INTC, "--time-passes", f"--output={output}", f"{folder}/large.onnx", "-o", f"{folder}/trainer")
    times = {line.split()[0]: float(line.split()[1]) for line in log.splitlines() if line.endswith(" ms")}
    info, _, _ = run(f"{folder}/trainer", "info")
    arena = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("arena "))
    row.update({"compile s": f"{seconds:.0f}", "passes s": f"{seconds * (1 - times['codegen'] / sum(times.values())):.1f}", "arena MB": f"{arena / 2**20:.0f}",
                "program MB": f"{os.path.getsize(folder + '/trainer') / 2**20:.0f}"})
    if not step:
        return
    np.save(f"{folder}/x.npy", x.numpy())
    np.save(f"{folder}/y.npy", y.numpy().astype(np.int32))
    with torch.no_grad():
        expected = loss_of(net, x, y).item()
    run(f"{folder}/trainer", "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", "--epochs", 1, "--lr", 0.001, "--shuffle", "off",
        "--log", f"{folder}/log.csv")
    found = common.read_log(f"{folder}/log.csv")
    row.update({"step loss": f"{found[0]:.3f}", "float loss": f"{expected:.3f}"})
    bounds.hold(len(found) == 1 and np.isfinite(found[0]) and abs(found[0] - expected) <= STEP_BOUND * expected, f"{name}: first loss {found[0]}, PyTorch {expected}")


def print_table(rows):
    print("| " + " | ".join(COLUMNS) + " |")
    print("| " + " | ".join("---" for _ in COLUMNS) + " |")
    for row in rows:
        print("| " + " | ".join(str(row.get(column, "")) for column in COLUMNS) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="names, with commas")
    parser.add_argument("--short", action="store_true", help=f"{', '.join(SHORT)} alone")
    parser.add_argument("--exporter", default="legacy,dynamo", help="the exporters to try, in order")
    parser.add_argument("--checks", default="gradients,native,compile,step")
    parser.add_argument("--rows", help="file that keeps the rows")
    parser.add_argument("--keep", help="folder for the exported models")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else SHORT if arguments.short else NETS
    checks, exporters = arguments.checks.split(","), arguments.exporter.split(",")
    torch.set_num_threads(1)
    bounds, rows = common.Bounds(), {}
    if arguments.rows and os.path.exists(arguments.rows):
        with open(arguments.rows) as file:
            rows = json.load(file)
    for name in names:
        row = rows.setdefault(name, {"network": name})
        with tempfile.TemporaryDirectory() as folder:
            if arguments.keep:
                folder = os.path.join(arguments.keep, name)
                os.makedirs(folder, exist_ok=True)
            try:
                if "gradients" in checks or "native" in checks:
                    check_small(name, row, bounds, folder, exporters, checks)
            except Failed as failure:
                bounds.hold(False, f"{name}: {failure}")
            try:
                if "compile" in checks or "step" in checks:
                    check_program(name, row, bounds, folder, exporters, "step" in checks)
            except Failed as failure:
                bounds.hold(False, f"{name}: {failure}")
        gc.collect()
        if arguments.rows:
            with open(arguments.rows, "w") as file:
                json.dump(rows, file)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    print(f"\n{common.cpu_name()}, torch {torch.__version__}, torchvision {models.__name__ and __import__('torchvision').__version__}, timm {timm.__version__}\n")
    print_table([rows[name] for name in NETS if name in rows])
    bounds.close()


main()
