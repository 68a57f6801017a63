#!/usr/bin/env python3
"""export_graphs.py PROGRAM [MODEL.onnx …]: do int8 exports compute the interpreter's bits in ONNX Runtime, and is the float export the model?

PROGRAM (export_graphs.c) writes models, inputs and expected outputs; parameters have their initial values. A float export must be the input model
but for the data of initializers, and compute nearly what it does. Exit status 77 where onnx or onnxruntime is missing."""
import collections
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64}


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # unsigned weights saturate on an x86 without VNNI
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs_of(session, folder, name):
    """What PROGRAM fed, in the types and shapes that the session wants; a fixed batch is cut or repeated."""
    feeds = {}
    for entry in session.get_inputs():
        data = np.fromfile(f"{folder}/{name}.input.{entry.name.replace('/', '_')}.f32", np.float32)
        shape = list(entry.shape)
        if shape and not isinstance(shape[0], int):
            shape[0] = len(data) // int(np.prod(shape[1:]))
        feeds[entry.name] = np.resize(data, shape).astype(TYPES[entry.type])
    return feeds


def compare(folder, name, form):
    path = f"{folder}/{name}.{form}.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = session_of(path)
    feeds = inputs_of(session, folder, name)
    any_rows = not isinstance(session.get_outputs()[0].shape[0] if session.get_outputs()[0].shape else 0, int)
    alone = session.run(None, {key: data[:1] for key, data in feeds.items()}) if any_rows else None
    differing = total = 0
    for i, (output, found) in enumerate(zip(session.get_outputs(), session.run(None, feeds))):
        expected = np.fromfile(f"{folder}/{name}.output.{output.name.replace('/', '_')}.f32", np.float32).reshape(found.shape)
        differing += int((found.view(np.int32) != expected.view(np.int32)).sum())
        if any_rows:
            differing += int((alone[i].view(np.int32) != expected[:1].view(np.int32)).sum())
        total += found.size
    return differing, total, any_rows


def bare(model):
    """The model without the data of its initializers."""
    for tensor in model.graph.initializer:
        for field in ("raw_data", "float_data", "double_data", "int32_data", "external_data", "data_location"):
            tensor.ClearField(field)
    return model


def passes_full_check(path):
    try:
        onnx.checker.check_model(path, full_check=True)
        return True
    except Exception:
        return False


def compare_float(folder, name, source):
    """Largest difference of the outputs, relative to the largest output; and whether everything else is kept."""
    path = f"{folder}/{name}.float.onnx"
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception:
        if passes_full_check(source):
            raise
        onnx.checker.check_model(path)
    kept = bare(onnx.load(path)).SerializeToString(deterministic=True) == bare(onnx.load(source, load_external_data=False)).SerializeToString(deterministic=True)
    before, after = session_of(onnx.load(source).SerializeToString()), session_of(path)
    feeds = inputs_of(before, folder, name)
    distance = 0.0
    for a, b in zip(before.run(None, feeds), after.run(None, feeds)):
        distance = max(distance, float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-9)))
    return distance, kept


def judge(folder, name, form, sources):
    """A verdict and what to print of it."""
    if form == "float":
        distance, kept = compare_float(folder, name, sources[name])
        good = kept and distance < 0.01
        return "float as before" if good else "float differs", f"outputs {distance:.1e} apart, the rest {'kept' if kept else 'CHANGED'}"
    differing, total, any_rows = compare(folder, name, form)
    return "equal" if differing == 0 else "differs", f"{differing} of {total} elements differ{', any number of rows' if any_rows else ''}"


def main():
    results = collections.Counter()
    sources = {os.path.basename(path): path for path in sys.argv[2:]}
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([sys.argv[1], folder, *sys.argv[2:]], check=True, text=True, stdout=subprocess.PIPE)
        for line in run.stdout.splitlines():
            name, form, rest = line.split(" ", 2)
            if form == "refused":
                verdict, text = "refused", rest
            elif rest != "1":
                verdict, text = "outside its conditions", "not compared"
            else:
                try:
                    verdict, text = judge(folder, name, form, sources)
                except Exception as error:  # an invalid model is a failure of this case, not of the run
                    verdict, text = "invalid", str(error)[:300]
            results[verdict] += 1
            if sources or verdict not in ("equal", "float as before"):
                print(f"{name} {form}: {verdict}: {text}", flush=True)
    print(dict(results))
    sys.exit(0 if results["equal"] > 0 and results["differs"] + results["float differs"] + results["invalid"] == 0 else 1)


main()
