#!/usr/bin/env python3
"""export_graphs.py PROGRAM: do int8 exports compute the interpreter's bits in ONNX Runtime? PROGRAM (export_graphs.c) writes models, inputs and
expected outputs. Exit status 77 where onnx or onnxruntime is missing."""
import collections
import glob
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


def compare(folder, name, form):
    path = f"{folder}/{name}.{form}.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {i.name: np.fromfile(f"{folder}/{name}.input.{i.name}.f32", np.float32).reshape(i.shape) for i in session.get_inputs()}
    differing = total = 0
    for output, found in zip(session.get_outputs(), session.run(None, feeds)):
        expected = np.fromfile(f"{folder}/{name}.output.{output.name}.f32", np.float32).reshape(found.shape)
        differing += int((found.view(np.int32) != expected.view(np.int32)).sum())
        total += found.size
    return differing, total


def main():
    results = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        lines = subprocess.run([sys.argv[1], folder], check=True, text=True, capture_output=True).stdout.splitlines()
        for line in lines:
            name, form, rest = line.split(" ", 2)
            if form == "refused":
                results["refused"] += 1
                print(f"{name}: refused: {rest}")
                continue
            holds = rest == "1"
            if not holds:
                results["outside its conditions"] += 1
                print(f"{name} {form}: outside its conditions")
                continue
            try:
                differing, total = compare(folder, name, form)
            except Exception as error:  # an invalid model is a failure of this case, not of the run
                results["invalid"] += 1
                print(f"{name} {form}: {str(error)[:300]}")
                continue
            results["equal" if differing == 0 else "differs"] += 1
            if differing:
                print(f"{name} {form}: {differing} of {total} elements differ")
    print(dict(results))
    sys.exit(0 if results["equal"] > 0 and results["differs"] + results["invalid"] == 0 else 1)


main()
