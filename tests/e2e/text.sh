# Stop, look and go on: a trainer compiled from the text that --stop-after wrote trains to the same bytes as one compiled from the model;
# a text of another stage and a broken one are refused.
. "$(dirname "$0")/common.sh"

train() {
    ./"$1" train "${DIGITS[@]}" --epochs 1 --lr 0.05 --momentum 0.9 --seed 3 >"$1.log" || fail "$1 does not train"
}

"$INTC" --batch=32 "$MODELS/digits_cnn.onnx" -o direct 2>/dev/null
train direct
for pass in import backward sgd; do
    "$INTC" --batch=32 --stop-after=$pass "$MODELS/digits_cnn.onnx" -o $pass.ir 2>/dev/null
    "$INTC" $pass.ir -o resumed || fail "the text after $pass does not compile"
    train resumed
    [ "$(sha_of direct.log)" = "$(sha_of resumed.log)" ] || fail "the text after $pass trains to other bytes"
done

"$INTC" --batch=32 --stop-after=memplan "$MODELS/digits_cnn.onnx" -o late.ir 2>/dev/null
if "$INTC" late.ir -o late 2>late.log; then fail "a planned text compiles"; fi
grep -q "intc: error: late.ir: expected the graphs" late.log || fail "no clear refusal: $(cat late.log)"
head -c 5000 sgd.ir >broken.ir
if "$INTC" broken.ir -o broken 2>broken.log; then fail "half a text compiles"; fi
grep -q "intc: error: broken.ir: line" broken.log || fail "no clear refusal: $(cat broken.log)"
[ ! -e late ] && [ ! -e broken ] || fail "a refused text left an output file"
