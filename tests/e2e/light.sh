# Large models by others, compiled (-O0, for time) and stepped once on made-up data: the networks of the ONNX tests, whose weights are all equal, so that
# every class is as likely as any other and the first loss is ln 1000; and a detector with two outputs, of which the user chooses one. SHARED is the folder
# with the models (default: beside the repository); without it the test is skipped.
. "$(dirname "$0")/common.sh"
: "${MAKE_DATA:?set MAKE_DATA to the program that makes data}"
[ "${SANITIZED:-0}" = 0 ] || { echo "skipped: large models take the release build"; exit 77; }
SHARED=${SHARED:-$ROOT/../shared}
models=$SHARED/data/onnx
[ -d "$models/light" ] || { echo "skipped: no folder of models by others ($models/light)"; exit 77; }

# step NAME LEAST MOST MODEL DATA TARGET OPTION...: the loss of the first step is between LEAST and MOST.
step() {
    local name=$1 least=$2 most=$3 model=$4 data=$5 target=$6
    shift 6
    "$INTC" -O0 --batch=4 "$@" "$model" -o trainer 2>compile.log || fail "$name: $(cat compile.log)"
    ./trainer train --data "$data" --target "$target" --epochs 1 --lr 0.001 --seed 1 --log log.csv >train.log || fail "$name: $(cat train.log)"
    local loss
    loss=$(awk -F, 'END { print $3 }' log.csv)
    echo "$name: loss $loss"
    awk -v x="$loss" -v a="$least" -v b="$most" 'BEGIN { exit !(x == x + 0 && x >= a && x <= b) }' || fail "$name: loss $loss, expected $least to $most"
    rm -f trainer
}

"$MAKE_DATA" 4x3x224x224 1000 data.npy target.npy
for model in light_squeezenet light_shufflenet light_densenet121 light_resnet50; do
    step $model 6.9077 6.9078 "$models/light/$model.onnx" data.npy target.npy
done

slim=$models/trained/version-slim-320.onnx
"$MAKE_DATA" 4x3x240x320 1 data.npy unused.npy
"$MAKE_DATA" 4x4420x4 1 boxes.npy unused.npy
"$MAKE_DATA" 4x4420x2 1 scores.npy unused.npy
step "version-slim-320 boxes" 1e-6 100 "$slim" data.npy boxes.npy --output=boxes --loss=mse
step "version-slim-320 scores" 1e-6 100 "$slim" data.npy scores.npy --output=scores --loss=mse
if "$INTC" --batch=4 "$slim" -o trainer 2>refused.log; then fail "version-slim-320: two outputs and none chosen"; fi
grep -q -- "--output=NAME: 'scores', 'boxes'" refused.log || fail "version-slim-320: $(cat refused.log)"
