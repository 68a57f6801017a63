#!/bin/bash
# Bad input ends in one clear sentence, exit status 1 and no file; what was there before stays as it was.
. "$(dirname "$0")/common.sh"
export LC_ALL=C

cases=0
contents() {
    find . ! -type d -printf '%s %T@ %p\n' | sort
}
# refuse STATUS PATTERN COMMAND...: the command must end with STATUS, say PATTERN in a single line of standard error, and leave the folder as it was.
refuse() {
    local status=$1 pattern=$2 got=0
    shift 2
    contents >../before.$$ # beside the folder, so that it does not see itself
    "$@" >../out.$$ 2>../err.$$ || got=$?
    contents >../after.$$
    [ "$got" -eq "$status" ] || fail "exit status $got, expected $status: $* : $(cat ../err.$$)"
    [ "$(wc -l <../err.$$)" -eq 1 ] || fail "not one line: $* : $(cat ../err.$$)"
    grep -qE "$pattern" ../err.$$ || fail "says nothing of '$pattern': $* : $(cat ../err.$$)"
    cmp -s ../before.$$ ../after.$$ || fail "files changed: $* : $(diff ../before.$$ ../after.$$)"
    cases=$((cases + 1))
    cat ../err.$$
}
# full COMMAND...: runs it where no file can grow beyond 16 KB, as on a full disk.
full() {
    (
        trap '' XFSZ
        ulimit -f 16
        "$@"
    )
}
mkdir inner && cd inner
digits=$MODELS/digits_train_images.npy labels=$MODELS/digits_train_labels.npy

# The compiler.
refuse 1 'none\.onnx' "$INTC" --batch=8 none.onnx -o trainer
head -c 20000 "$MODELS/digits_mlp.onnx" >cut.onnx
: >empty.onnx
head -c 4000 "$MODELS/digits_train_images.npy" >noise.onnx
for file in cut empty noise; do
    refuse 1 "intc: error: $file\.onnx" "$INTC" --batch=8 "$file.onnx" -o trainer
done
refuse 1 "batch" "$INTC" "$MODELS/digits_mlp.onnx" -o trainer
sed 's/Flatten/Flotten/g' "$MODELS/digits_mlp.onnx" >odd.onnx
refuse 1 "Flotten" "$INTC" --batch=8 odd.onnx -o trainer
refuse 1 "nowhere" "$INTC" --batch=8 "$MODELS/digits_mlp.onnx" -o nowhere/trainer
refuse 1 "trainer" full "$INTC" --batch=8 "$MODELS/digits_mlp.onnx" -o trainer
refuse 1 "bits" "$INTC" --batch=8 --bits=3 "$MODELS/digits_mlp.onnx" -o trainer
refuse 1 "batch" "$INTC" --batch=0 "$MODELS/digits_mlp.onnx" -o trainer
refuse 1 "no-such" "$INTC" --batch=8 --cpu=no-such "$MODELS/digits_mlp.onnx" -o trainer
# Every unsupported operator is named in a single run.
sed 's/Flatten/Flotten/g; s/Relu/Rely/g' "$MODELS/digits_mlp.onnx" >odd.onnx
"$INTC" --batch=8 odd.onnx -o trainer 2>../err.$$ && fail "unknown operators compile"
{ grep -q Flotten ../err.$$ && [ "$(grep -c Rely ../err.$$)" -eq 2 ]; } || fail "not all unsupported operators are named: $(cat ../err.$$)"

# The trainer's data.
"$INTC" --batch=32 "$MODELS/digits_mlp.onnx" -o trainer
"$INTC" --batch=32 "$MODELS/lenet5.onnx" -o lenet
refuse 1 "28.*8|8.*28" ./lenet train --data "$digits" --target "$labels" --epochs 1 --lr 0.1
refuse 1 "360" ./trainer train --data "$digits" --target "$MODELS/digits_test_labels.npy" --epochs 1 --lr 0.1
refuse 1 "none\.npy" ./trainer train --data "$digits" --target none.npy --epochs 1 --lr 0.1
refuse 1 "target" ./trainer train --data "$digits" --epochs 1 --lr 0.1
refuse 1 "target" ./trainer eval --data "$digits"
head -c 50000 "$digits" >cut.npy
: >empty.npy
head -c 40 "$digits" >header.npy
sed 's/|u1/<c8/' "$digits" >complex.npy
for file in cut empty header complex; do
    refuse 1 "$file\.npy" ./trainer train --data "$file.npy" --target "$labels" --epochs 1 --lr 0.1
done
# Labels beyond the classes: every 9 becomes 200.
tr '\011' '\310' <"$labels" >classes.npy
refuse 1 "200" ./trainer train --data "$digits" --target classes.npy --epochs 1 --lr 0.1
# IDX, cut and cut while compressed.
{ printf '\0\0\010\003\0\0\0\144\0\0\0\010\0\0\0\010' && head -c 6000 "$digits"; } >cut-idx3-ubyte
gzip -c "$labels" | head -c 150 >cut.gz
refuse 1 "cut-idx3-ubyte" ./trainer train --data cut-idx3-ubyte --target "$labels" --epochs 1 --lr 0.1
refuse 1 "cut\.gz" ./trainer train --data "$digits" --target cut.gz --epochs 1 --lr 0.1

# Options.
refuse 2 "speed" ./trainer train --data "$digits" --target "$labels" --epochs 1 --speed 9
refuse 2 "fast" ./trainer train --data "$digits" --target "$labels" --epochs 1 --lr fast

# Checkpoints: not one, cut, of another model.
./trainer train "${DIGITS[@]}" --epochs 1 --lr 0.1 --seed 1 --checkpoint good.ckpt >../out.$$
./lenet train --data /dev/null --target /dev/null --epochs 1 --lr 0.1 2>../err.$$ && fail "an empty set trains"
head -c 3000 good.ckpt >cut.ckpt
"$INTC" --batch=32 "$MODELS/digits_cnn.onnx" -o cnn
refuse 1 "none\.ckpt" ./trainer eval "${DIGITS_TEST[@]}" --checkpoint none.ckpt
refuse 1 "cut\.ckpt" ./trainer eval "${DIGITS_TEST[@]}" --checkpoint cut.ckpt
refuse 1 "header\.npy" ./trainer eval "${DIGITS_TEST[@]}" --checkpoint header.npy
refuse 1 "good\.ckpt" ./cnn eval "${DIGITS_TEST[@]}" --checkpoint good.ckpt
refuse 1 "cut\.ckpt" ./trainer train "${DIGITS[@]}" --epochs 2 --lr 0.1 --resume cut.ckpt

# A full disk: the earlier checkpoint stays, no partial file appears.
refuse 1 "good\.ckpt" full ./trainer train "${DIGITS[@]}" --epochs 1 --lr 0.1 --seed 2 --checkpoint good.ckpt
refuse 1 "out\.onnx" full ./trainer export --checkpoint good.ckpt -o out.onnx --format float
if [ "$(id -u)" -eq 0 ] && mkdir disk && mount -t tmpfs -o size=16k tmpfs disk 2>/dev/null; then
    trap 'umount "$work/inner/disk"; rm -rf "$work"' EXIT
    refuse 1 "disk/c\.ckpt" ./trainer train "${DIGITS[@]}" --epochs 1 --lr 0.1 --checkpoint disk/c.ckpt
    refuse 1 "disk/out\.onnx" ./trainer export --checkpoint good.ckpt -o disk/out.onnx --format float
    refuse 1 "disk/trainer" "$INTC" --batch=8 "$MODELS/digits_mlp.onnx" -o disk/trainer
else
    echo "left out: a tmpfs that is really full needs root"
fi
cd ..
echo "$cases refusals"
