#!/usr/bin/env python3
"""export_check.py [--models lenet5,resnet20,…] [--epochs 1] [--steps 40] [--images 256]: are the exported models standard ONNX, and do they compute
what the trainer does?

Trains each model on Fashion-MNIST, exports it as float and int8, and for both: onnx.checker's full check, ONNX Runtime on the test set.
int8: ONNX Runtime's outputs equal `trainer predict`'s bit for bit on the same float32 input. float: accuracy within 0.3 points of the trainer's,
and every byte of meaning but the initializers' is that of the input model.

The networks for images of 3 × 32 × 32, which models/export.py makes, take --steps steps on padded images with each of three seeds of the
rounding and are compared on --images of the test set, on which an accuracy says little: the float outputs, with running statistics, differ from
the trainer's, root mean square against that of the outputs about their mean, in the median of the seeds by at most a tenth; a single seed by
no more either, or three times what rounding the weights alone to 8 bits does to the float outputs: in some states a network magnifies any rounding."""
import argparse
import os
import tempfile

import numpy as np
import onnx
import onnxruntime

import common
import export

FLOAT_SPAN, FLOAT_DISTANCE, ROUNDING_RATIO = 0.3, 0.1, 3
NETWORK_BATCH = 32


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


def padded(images):
    """Fashion-MNIST as images of 3 × 32 × 32."""
    return np.repeat(np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))), 3, 1)


def inference_mode(path):
    """The model with normalisation by running statistics."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            for attribute in node.attribute:
                if attribute.name == "training_mode":
                    attribute.i = 0
    return model.SerializeToString()


def equal_int8(name, path, images, predicted, batch, bounds):
    found = outputs_of(path, images, batch)
    differing = int((found.reshape(predicted.shape) != predicted).any(axis=tuple(range(1, predicted.ndim))).sum())
    bounds.hold(found.dtype == predicted.dtype, f"{name}: ONNX Runtime gives {found.dtype}, predict {predicted.dtype}")
    bounds.hold(differing == 0, f"{name}: {differing} int8 predictions differ from the trainer's")
    return found, differing


def exported(trainer, name, form, folder):
    path = f"{folder}/{name}.{form}.onnx"
    common.run(trainer, "export", "--checkpoint", f"{folder}/c.ckpt", "-o", path, "--format", form)
    onnx.checker.check_model(path, full_check=True)
    return path


def predictions(trainer, images, folder):
    np.save(f"{folder}/test.npy", images)
    common.run(trainer, "predict", "--data", f"{folder}/test.npy", "--checkpoint", f"{folder}/c.ckpt", "--output", f"{folder}/p.npy")
    return np.load(f"{folder}/p.npy")


TRAINING = ("--mean", common.MEAN, "--std", common.STD, "--lr", 0.03, "--momentum", 0.9, "--lr-schedule", "cosine")
SEEDS = 1, 2, 3


def check(name, epochs, folder, bounds):
    source, trainer = os.path.join(common.ROOT, "models", name + ".onnx"), f"{folder}/{name}"
    train = [os.path.join(common.DATA, f"train-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1")]
    _, _, test_images, test_labels = common.fashion_mnist()
    images = common.standardise(test_images)
    np.save(f"{folder}/labels.npy", test_labels)
    common.compile_model(source, trainer)
    common.run(trainer, "train", "--data", train[0], "--target", train[1], *TRAINING, "--seed", 1, "--epochs", epochs, "--checkpoint", f"{folder}/c.ckpt")
    predicted = predictions(trainer, images, folder)
    accuracy = common.accuracy_of(predicted, test_labels)
    said = common.percentage(common.run(trainer, "eval", "--data", f"{folder}/test.npy", "--target", f"{folder}/labels.npy", "--checkpoint", f"{folder}/c.ckpt"))
    bounds.hold(abs(said - accuracy) < 0.051, f"{name}: eval says {said} %, its own predictions give {accuracy} %")
    found, differing = equal_int8(name, exported(trainer, name, "int8", folder), images, predicted, common.BATCH, bounds)
    path = exported(trainer, name, "float", folder)
    score = common.accuracy_of(outputs_of(path, images, common.BATCH), test_labels)
    print(f"{name:16s} accuracy: trainer {accuracy:.2f} %, float {score:.2f} %; int8 differs in {differing} of {len(found)} samples", flush=True)
    bounds.hold(abs(score - accuracy) <= FLOAT_SPAN, f"{name}: the float export is {score - accuracy:+.2f} points from the trainer")
    bounds.hold(without_weights(path) == without_weights(source), f"{name}: the float export changed more than weights")


def rounded(x):
    """At the least power of two that holds x in 8 bits."""
    unit = 2.0 ** np.ceil(np.log2(np.abs(x).max() / 127)) if x.any() else 1
    return np.round(x / unit) * unit


def with_rounded_weights(model):
    """The float model with all weights in 8 bits, times the scale of the batch normalisation behind them where there is one."""
    model = onnx.load_model_from_string(model)
    values = {i.name: i for i in model.graph.initializer}
    array = {name: onnx.numpy_helper.to_array(value) for name, value in values.items()}
    scales = {n.input[0]: array[n.input[1]] / np.sqrt(array[n.input[4]] + 1e-5) for n in model.graph.node if n.op_type == "BatchNormalization"}
    behind = {n.input[1]: scales[n.output[0]] for n in model.graph.node if n.op_type == "Conv" and n.output[0] in scales}
    for name, x in array.items():
        if x.ndim >= 2 and x.dtype == np.float32:
            scale = behind.get(name, np.ones(len(x))).reshape(-1, *[1] * (x.ndim - 1))
            values[name].CopyFrom(onnx.numpy_helper.from_array((rounded(x * scale) / scale).astype(np.float32), name))
    return model.SerializeToString()


def apart(found, real):
    return float(np.sqrt(((found - real) ** 2).mean() / ((real - real.mean(0)) ** 2).mean()))


def check_network(name, steps, count, folder, bounds):
    source, trainer = f"{folder}/{name}.onnx", f"{folder}/{name}"
    images, labels, test_images, _ = common.fashion_mnist()
    np.save(f"{folder}/x.npy", padded(images[:steps * NETWORK_BATCH]))
    np.save(f"{folder}/y.npy", labels[:steps * NETWORK_BATCH])
    export.export(export.make(name, 1), name, source)
    common.compile_model(source, trainer, NETWORK_BATCH)
    images, distances = common.standardise(padded(test_images[:count])), []
    for seed in SEEDS:
        place = f"{folder}/{seed}"
        os.mkdir(place)
        common.run(trainer, "train", "--data", f"{folder}/x.npy", "--target", f"{folder}/y.npy", *TRAINING, "--seed", seed, "--epochs", 1,
                   "--checkpoint", f"{place}/c.ckpt")
        predicted = predictions(trainer, images, place)
        found, differing = equal_int8(name, exported(trainer, name, "int8", place), images, predicted, NETWORK_BATCH, bounds)
        path = exported(trainer, name, "float", place)
        model = inference_mode(path)
        real = outputs_of(model, images, NETWORK_BATCH)
        distances.append(apart(predicted, real))
        weights = apart(outputs_of(with_rounded_weights(model), images, NETWORK_BATCH), real)
        print(f"{name:16s} seed {seed}: float differs by {distances[-1]:.3f} of its outputs, by {weights:.3f} from itself with 8-bit weights; "
              f"int8 differs in {differing} of {len(found)} samples", flush=True)
        bounds.hold(distances[-1] <= max(FLOAT_DISTANCE, ROUNDING_RATIO * weights), f"{name}, seed {seed}: the float outputs are {distances[-1]:.3f} away")
    bounds.hold(np.median(distances) <= FLOAT_DISTANCE, f"{name}: the float outputs are {np.median(distances):.3f} of themselves from the trainer's")
    bounds.hold(without_weights(path) == without_weights(source), f"{name}: the float export changed more than weights")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="mlp,lenet5,lenet5_dynamo,vgg,vgg_dynamo,resnet20,mobilenetv2,vit_tiny")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    bounds = common.Bounds()
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if export.MODELS.get(name, (None, None))[1] == (3, 32, 32):
                check_network(name, arguments.steps, arguments.images, folder, bounds)
            else:
                check(name, arguments.epochs, folder, bounds)
    bounds.close()


main()
