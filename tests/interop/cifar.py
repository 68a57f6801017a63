"""CIFAR-10 for the trajectory runs: the standard binary batches, augmentation and orders that depend on the seed alone.

CIFAR10 names the folder of data_batch_1.bin … test_batch.bin (default build/cifar10)."""
import os

import numpy as np

import common

FOLDER = os.environ.get("CIFAR10", os.path.join(common.ROOT, "build", "cifar10"))
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)
PADDING = 4


def pixels():
    """The trainer's options for what `standardise` does."""
    return ("--mean", ",".join(f"{m:.4f}" for m in MEAN), "--std", ",".join(f"{s:.4f}" for s in STD))


def standardise(images):
    return ((images.astype(np.float32) / 255 - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float32)


def load():
    """Images uint8 [N,3,32,32] and labels uint8 [N]: train, then test."""
    if not os.path.exists(os.path.join(FOLDER, "test_batch.bin")):
        raise SystemExit(f"{FOLDER}: no binary batches of CIFAR-10 there; the variable CIFAR10 names their folder")

    def batch(name):
        rows = np.fromfile(os.path.join(FOLDER, name), np.uint8).reshape(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
    parts = [batch(f"data_batch_{n}.bin") for n in range(1, 6)]
    return (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), *batch("test_batch.bin"))


def orders(count, batch, epochs, seed):
    """Indices [steps, batch]: a new order each epoch, the incomplete batch dropped."""
    source = np.random.default_rng(1000 + seed)
    steps = count // batch
    return np.concatenate([source.permutation(count)[:steps * batch].reshape(steps, batch) for _ in range(epochs)])


def augmented(images, indices, seed):
    """Yields the batches of `indices`, each image shifted by up to PADDING pixels over zeros and mirrored half of the time."""
    source = np.random.default_rng(2000 + seed)
    size = images.shape[-1]
    for index in indices:
        padded = np.pad(images[index], ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
        shift, mirror = source.integers(0, 2 * PADDING + 1, (len(index), 2)), source.integers(0, 2, len(index))
        batch = np.stack([p[:, y:y + size, x:x + size] for p, (y, x) in zip(padded, shift)])
        batch[mirror == 1] = batch[mirror == 1][..., ::-1]
        yield batch
