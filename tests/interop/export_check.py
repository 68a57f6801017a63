#!/usr/bin/env python3
"""export_check.py [--models lenet5,…] [--epochs 1]: are the exported models standard ONNX, and do they compute what the trainer does?

Trains each model on Fashion-MNIST, exports it as float and int8, and for both: onnx.checker's full check, ONNX Runtime on the whole test set.
int8: ONNX Runtime's outputs equal `trainer predict`'s bit for bit on the same float32 input. float: accuracy within 0.3 points of the trainer's,
and every byte of meaning but the initializers' is that of the input model."""
import argparse
import os
import tempfile

import numpy as np
import onnx
import onnxruntime

import common

FLOAT_SPAN = 0.3


def outputs_of(path, images, batch):
    """ONNX Runtime's first output for all images; a fixed batch is fed as it is."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    fixed = entry.shape[0] if isinstance(entry.shape[0], int) else batch
    results = []
    for start in range(0, len(images), fixed):
        chunk = images[start:start + fixed]
        filled = np.concatenate([chunk, np.zeros((fixed - len(chunk), *chunk.shape[1:]), np.float32)])
        results.append(session.run(None, {entry.name: filled})[0][:len(chunk)])
    return np.concatenate(results)


def without_weights(path):
    """The model with the bytes of its float initializers, Constants included, blanked."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return model


def check(name, epochs, folder, bounds):
    source, trainer = os.path.join(common.ROOT, "models", name + ".onnx"), f"{folder}/{name}"
    train = [os.path.join(common.DATA, f"train-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1")]
    _, _, test_images, test_labels = common.fashion_mnist()
    images = common.standardise(test_images)
    np.save(f"{folder}/test.npy", images)
    np.save(f"{folder}/labels.npy", test_labels)
    common.compile_model(source, trainer)
    common.run(trainer, "train", "--data", train[0], "--target", train[1], "--mean", common.MEAN, "--std", common.STD, "--epochs", epochs, "--lr", 0.03,
               "--momentum", 0.9, "--lr-schedule", "cosine", "--seed", 1, "--checkpoint", f"{folder}/c.ckpt")
    common.run(trainer, "predict", "--data", f"{folder}/test.npy", "--checkpoint", f"{folder}/c.ckpt", "--output", f"{folder}/p.npy")
    predicted = np.load(f"{folder}/p.npy")
    accuracy = common.accuracy_of(predicted, test_labels)
    said = common.percentage(common.run(trainer, "eval", "--data", f"{folder}/test.npy", "--target", f"{folder}/labels.npy", "--checkpoint", f"{folder}/c.ckpt"))
    bounds.hold(abs(said - accuracy) < 0.051, f"{name}: eval says {said} %, its own predictions give {accuracy} %")
    for form in ("float", "int8"):
        path = f"{folder}/{name}.{form}.onnx"
        common.run(trainer, "export", "--checkpoint", f"{folder}/c.ckpt", "-o", path, "--format", form)
        onnx.checker.check_model(path, full_check=True)
        found = outputs_of(path, images, common.BATCH)
        score = common.accuracy_of(found, test_labels)
        differing = int((found.reshape(predicted.shape) != predicted).any(axis=tuple(range(1, predicted.ndim))).sum())
        print(f"{name:16s} {form:5s} trainer {accuracy:6.2f} %  ONNX Runtime {score:6.2f} %  samples whose outputs differ: {differing} of {len(found)}", flush=True)
        if form == "int8":
            bounds.hold(found.dtype == predicted.dtype, f"{name}: ONNX Runtime gives {found.dtype}, predict {predicted.dtype}")
            bounds.hold(differing == 0, f"{name}: {differing} int8 predictions differ from the trainer's")
        else:
            bounds.hold(abs(score - accuracy) <= FLOAT_SPAN, f"{name}: the float export is {score - accuracy:+.2f} points from the trainer")
            bounds.hold(without_weights(path) == without_weights(source), f"{name}: the float export changed more than weights")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="mlp,lenet5,lenet5_dynamo,vgg,vgg_dynamo")
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    bounds = common.Bounds()
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            check(name, arguments.epochs, folder, bounds)
    bounds.close()


main()
