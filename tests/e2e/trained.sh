# Models by other exporters, trained on made-up data of their shapes: each compiles, its loss falls below that of guessing, and it exports. SHARED is the folder with the
# models (default: beside the repository); without it the test is skipped.
. "$(dirname "$0")/common.sh"
: "${MAKE_DATA:?set MAKE_DATA to the program that makes data}"
SHARED=${SHARED:-$ROOT/../shared}
models=$SHARED/data/onnx/trained
[ -d "$models" ] || { echo "skipped: no folder of models by others ($models)"; exit 77; }

# loss_of N FILE: the mean loss of N lines of a log, the first for N > 0, the last for N < 0.
loss_of() {
    local n=$1 file=$2
    tail -n +2 "$file" | if [ "$n" -gt 0 ]; then head -n "$n"; else tail -n "${n#-}"; fi | awk -F, '{ s += $3 } END { print s / NR }'
}

# train MODEL LOSS RATE ROWS EPOCHS
train() {
    local model=$1 loss=$2 rate=$3 rows=$4 epochs=$5
    "$INTC" --batch=16 --loss="$loss" "$models/$model.onnx" -o trainer 2>compile.log || fail "$model: $(cat compile.log)"
    ./trainer info >info.log
    local shape classes
    shape=$(sed -nE 's/^ +input +[^ ]+ +16x([0-9x]+) .*/\1/p' info.log | head -n 1)
    classes=$(sed -nE 's/^ +target .*labels below ([0-9]+).*/\1/p' info.log | head -n 1)
    "$MAKE_DATA" "${rows}x$shape" "${classes:-1}" data.npy target.npy
    ./trainer train --data data.npy --target target.npy --epochs "$epochs" --lr "$rate" --momentum 0.9 --seed 1 --log log.csv --save out.onnx --format float \
        >train.log || fail "$model: $(cat train.log)"
    [ -s out.onnx ] || fail "$model: no export"
    local first last
    first=$(loss_of 4 log.csv) last=$(loss_of -4 log.csv)
    echo "$model: loss $first, after training $last"
    awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < 0.7 * a) }' || fail "$model: the loss went from $first to $last"
    # A net that died ends at the loss of guessing, ln(classes), however high it began.
    [ -z "$classes" ] || awk -v b="$last" -v n="$classes" 'BEGIN { exit !(b < 0.7 * log(n)) }' || fail "$model: $last is no better than guessing"
    rm -f trainer out.onnx
}

train ACASXU_1_1 auto 0.003 512 10
train SqueezeNet_fp16 auto 0.01 64 8
train HAR-CNN auto 0.01 256 6
train KWS-DNN_S auto 0.01 512 6
train cifar_pytorch_winml auto 0.0002 256 6
train eran_ffnnSIGMOID_6x200 auto 0.05 512 10
train hls4ml_conv1d_small_keras auto 0.02 512 10
train hls4ml_three_layer_bn_keras auto 0.02 512 10
train hls4ml_two_layer_keras mse 0.1 512 20
train iris_pytorch auto 0.02 512 10
train marabou_cifar10_small auto 0.01 256 6
train mnist-7 auto 0.002 256 6
train mnist-net_256x2 auto 0.01 256 6
train resnet_2b auto 0.01 256 6
train squeezenet_cifar10 auto 0.005 256 10
train verivital_Convnet_avgpool auto 0.01 256 6
train vit_pgd_2_3_16 auto 0.01 256 6
