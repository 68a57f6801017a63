# The compiled step against the interpreter on whole models: 20 steps, every parameter, momentum and exponent bit for bit, for three CPUs and
# for kernels run in one and in three parts.
. "$(dirname "$0")/common.sh"
: "${STEP:?set STEP to the comparing program}"

check() {
    local model=$1 cpu=$2 parts=$3 steps=$4
    "$INTC" "$MODELS/$model.onnx" --batch=6 ${cpu:+--cpu=$cpu} --emit=obj -o step.o 2>/dev/null
    cc -shared step.o -o step.so
    "$STEP" step.ir "$PWD/step.so" "$steps" "$parts" || fail "$model on ${cpu:-the host CPU}, $parts parts"
}

for model in digits_mlp digits_cnn; do
    "$INTC" "$MODELS/$model.onnx" --batch=6 --stop-after=memplan -o step.ir 2>/dev/null
    for cpu in "" x86-64 x86-64-v3; do
        for parts in 1 3; do
            check "$model" "$cpu" "$parts" 20
        done
    done
done
for model in lenet5_dynamo vgg digits_resnet digits_norms; do
    "$INTC" "$MODELS/$model.onnx" --batch=6 --stop-after=memplan -o step.ir 2>/dev/null
    check "$model" "" 2 20
done
