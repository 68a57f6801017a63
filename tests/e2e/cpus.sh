#!/bin/bash
# Trainers for different instruction sets end in the same bytes; and are different programs, so that the comparison means something.
. "$(dirname "$0")/common.sh"
[ "$(uname -m)" = x86_64 ] || { echo "skipped: not an x86-64 machine"; exit 77; }

run() { # run CPU: sets sha and correct
    "$INTC" --batch=32 --cpu="$1" "$MODELS/$name.onnx" -o "$name.$1"
    ./"$name.$1" train "${DIGITS[@]}" --epochs 3 --lr 0.1 --momentum 0.9 --seed 5 --checkpoint "$1.ckpt" >"$1.out"
    ./"$name.$1" predict --data "$MODELS/digits_test_images.npy" --mean 0.287 --std 0.353 --checkpoint "$1.ckpt" --output "$1.npy"
}

# A trainer for AMX runs, or says that the system does not give what it needs.
"$INTC" --batch=32 --cpu=sapphirerapids "$MODELS/digits_mlp.onnx" -o amx
amx=0
./amx train "${DIGITS[@]}" --epochs 1 >/dev/null 2>amx.err || amx=1
[ "$amx" = 0 ] || grep -q 'compiled for a CPU with AMX' amx.err || fail "a trainer for AMX: $(cat amx.err)"

for name in digits_mlp digits_cnn; do
    cpus=(x86-64)
    grep -qw avx2 /proc/cpuinfo && cpus+=(x86-64-v3) || echo "left out: x86-64-v3, this CPU has no AVX2"
    grep -qw avx512vl /proc/cpuinfo && cpus+=(x86-64-v4) || echo "left out: x86-64-v4, this CPU has no AVX-512"
    grep -qw avx512_vnni /proc/cpuinfo && cpus+=(cascadelake) || echo "left out: cascadelake, this CPU has no AVX-512 VNNI"
    [ "$amx" = 0 ] && cpus+=(sapphirerapids) || echo "left out: sapphirerapids, this machine has no AMX"
    for cpu in "${cpus[@]}"; do
        run "$cpu"
        [ "$(sha_of "$cpu.out")" = "$(sha_of x86-64.out)" ] || fail "$name: $cpu ends in $(sha_of "$cpu.out"), x86-64 in $(sha_of x86-64.out)"
        cmp "$cpu.npy" x86-64.npy || fail "$name: predictions of $cpu and x86-64 differ"
        [ "$cpu" = x86-64 ] || ! cmp -s "$name.$cpu" "$name.x86-64" || fail "$name: --cpu=$cpu changed nothing in the trainer"
    done
    "$INTC" --batch=32 "$MODELS/$name.onnx" -o host
    ./host train "${DIGITS[@]}" --epochs 3 --lr 0.1 --momentum 0.9 --seed 5 >host.out
    [ "$(sha_of host.out)" = "$(sha_of x86-64.out)" ] || fail "$name: the host's CPU ends in $(sha_of host.out), x86-64 in $(sha_of x86-64.out)"
    echo "$name: ${cpus[*]} host: $(sha_of host.out)"
done
