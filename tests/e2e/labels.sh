# A label that the loss ignores may be negative: it is accepted, counts neither in the loss nor in the accuracy, and any other label beyond
# the classes is refused. `info` names the loss that was chosen and the label that it ignores.
. "$(dirname "$0")/common.sh"
export LC_ALL=C
images=$MODELS/digits_test_images.npy labels=$MODELS/digits_test_labels.npy

"$INTC" --batch=32 "$MODELS/digits_mlp.onnx" -o plain 2>/dev/null
"$INTC" --batch=32 --stop-after=import "$MODELS/digits_mlp.onnx" -o plain.ir 2>/dev/null
for ignored in -1 -1000; do
    sed "s/ignore_index=-2147483648/ignore_index=$ignored/g" plain.ir >ignoring.ir
    "$INTC" ignoring.ir -o "ignoring$ignored"
    ./"ignoring$ignored" info >info.out
    grep -q "labels below 10, $ignored is ignored" info.out || fail "info: $(grep target info.out)"
    grep -q "^loss  *cross-entropy$" info.out || fail "info: $(grep ^loss info.out)"
done
./plain info | grep -q "is ignored" && fail "info of a model without such a label names one"
./plain info | grep -q "^loss  *cross-entropy$" || fail "info: $(./plain info | grep ^loss)"
./plain train "${DIGITS[@]}" --epochs 2 --lr 0.1 --seed 3 >plain.out
./ignoring-1 train "${DIGITS[@]}" --epochs 2 --lr 0.1 --seed 3 --checkpoint c.ckpt >same.out
[ "$(sha_of plain.out)" = "$(sha_of same.out)" ] || fail "a label that never occurs changes the training"

# The last 60 of the 360 rows ignored, against a file without them.
header=$(head -c 128 "$labels" | tail -c +11)
[[ $header == *"'|u1'"*"(360,)"* ]] || fail "digits_test_labels.npy is not what this test expects: $header"
{
    head -c 128 "$labels" | sed "s/'|u1'/'|i1'/"
    tail -c +129 "$labels" | head -c 300
    head -c 60 /dev/zero | tr '\000' '\377'
} >ignored.npy
head -c 428 "$labels" | sed 's/(360,)/(300,)/' >few_labels.npy
rows=$((($(stat -c %s "$images") - 128) / 360))
head -c $((128 + 300 * rows)) "$images" | sed 's/(360, /(300, /' >few_images.npy
eval=(--mean 0.287 --std 0.353 --checkpoint c.ckpt)
./ignoring-1 eval --data "$images" --target ignored.npy "${eval[@]}" >ignored.out
./ignoring-1 eval --data few_images.npy --target few_labels.npy "${eval[@]}" >few.out
cmp ignored.out few.out || fail "ignored rows count: $(cat ignored.out), without them $(cat few.out)"
for other in plain ignoring-1000; do
    if ./"$other" train --data "$images" --target ignored.npy --epochs 1 --lr 0.1 2>refused.out; then fail "$other takes a label of -1"; fi
    grep -q "element 300: expected a label from 0 to 9 for 'target', found -1" refused.out || fail "$other: $(cat refused.out)"
done
./ignoring-1 train --data "$images" --target ignored.npy --mean 0.287 --std 0.353 --epochs 2 --lr 0.1 >train.out || fail "does not train"
echo "300 of 360 labels: $(cat ignored.out)"
