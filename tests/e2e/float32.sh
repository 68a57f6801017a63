#!/bin/bash
# A float32 trainer has every command of an integer one: it learns, ends in the same bytes for any number of threads and after resuming,
# evaluates and predicts from its checkpoint, exports float, and refuses in one sentence what needs integers. Its runtime has no floating
# point: what it logs is what it evaluates. A learning rate that makes every number infinite ends the run as any other.
. "$(dirname "$0")/common.sh"

"$INTC" --arith=float32 --batch=32 "$MODELS/digits_resnet.onnx" -o trainer
./trainer info >info.out
grep -q -- '--arith=float32' info.out || fail "info does not tell the arithmetic"
train=("${DIGITS[@]}" --epochs 4 --lr 0.05 --momentum 0.9 --weight-decay 5e-4 --lr-schedule cosine --seed 5)
for threads in 1 2 3; do
    ./trainer train "${train[@]}" --threads "$threads" --checkpoint "$threads.ckpt" --save "$threads.onnx" --format float >"$threads.out"
    cmp "$threads.ckpt" 1.ckpt || fail "$threads threads end in other bytes than one"
    cmp "$threads.onnx" 1.onnx || fail "$threads threads export another model than one"
done
./trainer train "${train[@]}" --max-steps 50 --checkpoint part.ckpt >part.out
./trainer train "${train[@]}" --resume part.ckpt --checkpoint again.ckpt >again.out
cmp again.ckpt 1.ckpt || fail "resuming ends in other bytes"
./trainer eval "${DIGITS_TEST[@]}" --checkpoint 1.ckpt >eval.out
at_least "$(accuracy_of eval.out)" 85 || fail "four epochs give $(accuracy_of eval.out) %"
./trainer predict --data "$MODELS/digits_test_images.npy" --mean 0.287 --std 0.353 --checkpoint 1.ckpt --output p.npy
[ -s p.npy ] || fail "no predictions"
[ "$(wc -c <1.onnx)" -gt 10000 ] || fail "the float export is empty"

refused() { # refused TEXT COMMAND...: exit status 1, one line on standard error that holds TEXT, no file
    local text=$1
    shift
    if "$@" -o no.out 2>no.err; then fail "not refused: $*"; fi
    [ "$(wc -l <no.err)" = 1 ] && grep -q -- "$text" no.err || fail "expected one line with '$text': $(cat no.err)"
    [ ! -e no.out ] || fail "refused, but there is a file: $*"
}
for format in int8 qdq; do
    refused float32 ./trainer export --checkpoint 1.ckpt --format "$format"
done
refused float32 "$INTC" --arith=float32 --bits=6 --batch=32 "$MODELS/digits_resnet.onnx"
refused float32 "$INTC" --arith=float16 --batch=32 "$MODELS/digits_resnet.onnx"

"$INTC" --batch=32 "$MODELS/digits_resnet.onnx" -o integer
if ./integer eval "${DIGITS_TEST[@]}" --checkpoint 1.ckpt 2>mixed.err; then fail "an integer trainer read the checkpoint of a float one"; fi
./trainer train "${DIGITS[@]}" --epochs 1 --lr 1000000 --momentum 0.9 --seed 5 >wild.out || fail "a diverging run fails: $(tail -n 1 wild.out)"
echo "float32: $(cat eval.out); learning rate 1000000: $(tail -n 2 wild.out | head -n 1)"
