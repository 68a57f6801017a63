#!/bin/bash
# The ONNX backend cases on the interpreter, those of the list and some more of the archive, where the data are at hand (SHARED, else beside the repository). Needs BACKEND, ROOT.
set -eu
shared=${SHARED:-$ROOT/../shared}
archive=$shared/data/onnx-backend-data-6be0677.tar.gz
cases=$shared/data/onnx-backend-cases.txt
if [ ! -f "$archive" ] || [ ! -f "$cases" ]; then
    echo "skipped: no onnx-backend-data-6be0677.tar.gz"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar -xzf "$archive" -C "$folder" onnx/backend/test/data/{node,simple,pytorch-operator,pytorch-converted}
for list in "$cases" "$ROOT/tests/op/backend_more.txt"; do
    "$BACKEND" "$folder/onnx/backend/test/data" "$list" "$ROOT/tests/op/backend_refused.txt" "$ROOT/tests/op/backend_beyond.txt"
done
