"""The runs of results.py on disk, and docs/results.md with its pictures made from them."""
import csv
import os

import numpy as np


def path(runs, name):
    return os.path.join(runs, name + ".csv")


def save(runs, name, losses, accuracy, keep):
    """Mean losses over every `keep` steps, preceded by a line with the accuracy."""
    os.makedirs(runs, exist_ok=True)
    whole = len(losses) // keep * keep
    with open(path(runs, name) + ".part", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "loss"])
        writer.writerow(["accuracy", f"{accuracy:.2f}"])
        for number, loss in enumerate(losses[:whole].reshape(-1, keep).mean(axis=1)):
            writer.writerow([(number + 1) * keep, f"{loss:.5f}"])
    os.replace(path(runs, name) + ".part", path(runs, name))


class Run:
    def __init__(self, file):
        with open(file, newline="") as text:
            rows = list(csv.reader(text))
        self.accuracy = float(rows[1][1])
        self.steps, self.losses = np.array([[float(a), float(b)] for a, b in rows[2:]]).T

    def smooth(self, window=5):
        """Means over `window` kept values, 50 steps."""
        return np.convolve(self.losses, np.ones(window) / window, "valid")


def load(runs):
    """{(model, kind, seed): Run} of what is there."""
    found = {}
    for file in sorted(os.listdir(runs)):
        if file.endswith(".csv"):
            model, kind, seed = file[:-4].rsplit("-", 2)
            found[model, kind, int(seed)] = Run(os.path.join(runs, file))
    return found


def compare(run, reference):
    """Distance of the smoothed curves and the signed gap."""
    difference = run.smooth() - reference.smooth()
    return np.abs(difference).mean(), difference.mean()


def picture(found, model, path):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "intc"
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 3.4))
    for (name, kind, seed), run in found.items():
        if name == model:
            axes.plot(run.steps[2:-2], run.smooth(), label=f"{kind} {seed}", linewidth=0.8, linestyle="--" if kind == "perturbed" else "-")
    axes.set(xlabel="step", ylabel="training loss", title=model)
    axes.legend(fontsize=6, ncol=3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def trajectories(found, model):
    yield "| seed | float32 % | perturbed % | integer % | distance | of perturbed | gap | of perturbed |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    def cell(run):
        return f"{run.accuracy:.2f}" if run else "–"
    whole = []
    for seed in sorted({s for m, _, s in found if m == model}):
        reference, chaos, integer = (found.get((model, kind, seed)) for kind in ("float", "perturbed", "int8"))
        numbers = ["–"] * 4
        for place, run in enumerate((integer, chaos)):
            if run and reference:
                distance, gap = compare(run, reference)
                numbers[place], numbers[place + 2] = f"{distance:.4f}", f"{gap:+.4f}"
        if reference and chaos and integer:
            whole.append((reference.accuracy, chaos.accuracy, integer.accuracy, *compare(integer, reference), *compare(chaos, reference)))
        yield f"| {seed} | {cell(reference)} | {cell(chaos)} | {cell(integer)} | {' | '.join(numbers)} |"
    for (name, kind, seed), run in sorted(found.items()):
        if name == model and kind == "bf16":
            distance, gap = compare(run, found[model, "float", seed])
            yield f"| {seed}, bf16 | | | {run.accuracy:.2f} | {distance:.4f} | | {gap:+.4f} | |"
    if len(whole) > 1:
        a, b, c, far, gap, chaos_far, chaos_gap = np.mean(whole, axis=0)
        yield f"| mean of {len(whole)} | {a:.2f} | {b:.2f} | {c:.2f} | {far:.4f} | {chaos_far:.4f} | {gap:+.4f} | {chaos_gap:+.4f} |"


def widths(found, models):
    """A row for each width and seed of the models that were trained with several."""
    yield "| model | seed | bits | test accuracy % | distance from float32 | gap |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for model in models:
        for seed in sorted({s for m, kind, s in found if m == model and kind.startswith("int") and kind != "int8"}):
            reference = found.get((model, "float", seed))
            for bits in range(8, 3, -1):
                run = found.get((model, f"int{bits}", seed))
                if run:
                    far = compare(run, reference) if reference else None
                    yield f"| {model} | {seed} | {bits} | {run.accuracy:.2f} | " + (f"{far[0]:.4f} | {far[1]:+.4f} |" if far else "– | – |")


def write(runs, recipes, names, page):
    """The page, and a picture of each model beside its runs; `names` are those that the whole table has."""
    found = load(runs)
    models = [model for model in recipes if any(m == model for m, _, _ in found)]
    lines = ["# Integer against float32 training", "",
             "Written by `tests/interop/results.py` from the runs in `docs/results/`; the command makes those that are missing. CIFAR-10 (JPEG-decoded copies of the",
             "images: for comparing, not for quoting), crops of four pixels and mirroring, SGD with momentum 0.9 and a cosine rate. Runs of one seed share initial weights,",
             "batches and augmentation. float32 is PyTorch, on the CPU or, with `--device cuda`, on a GPU, without TF32; *perturbed* is the same from weights changed by 0.1 %, the distance that chaos alone makes. Distance and gap:",
             "mean absolute and mean signed difference to the float32 curve, smoothed over 50 steps, over the whole run.", ""]
    for model in models:
        recipe = recipes[model]
        epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
        lines += [f"## {model}", "", f"{epochs}, batch {recipe.batch}, rate {recipe.rate}, weight decay {recipe.decay}"
                  + (f", {recipe.warmup} steps of warm-up." if recipe.warmup else "."), "", *trajectories(found, model), "",
                  f"![loss curves of {model}](results/{model}.svg)", ""]
        picture(found, model, os.path.join(runs, model + ".svg"))
    lines += ["## Bit widths", "", "`--bits` of the operands of convolutions and products.", "", *widths(found, models), ""]
    missing = [name for name in names if not os.path.exists(path(runs, name))]
    if missing:
        lines += ["## Not made yet", "", " ".join(f"`{name}`" for name in missing), ""]
    with open(page, "w") as file:
        file.write("\n".join(lines))
