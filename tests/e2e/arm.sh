#!/bin/bash
# Trainers for Arm, linked by Debian's cross compiler and run under an emulator, end in the same bytes as the host's: without and with the dot
# instruction. They contain no floating-point arithmetic either.
. "$(dirname "$0")/common.sh"
triple=aarch64-linux-gnu
[ "${SANITIZED:-0}" = 0 ] || { echo "skipped: the release build makes the same code"; exit 77; }
for program in $triple-gcc $triple-objdump qemu-aarch64; do
    command -v $program >/dev/null || { echo "skipped: no $program"; exit 77; }
done

floats='f(n?m(ul|add|sub)|add|sub|mul|div|ml[as]|sqrt|abs|neg|c?cmp|cvt[a-z]*|max|min|maxnm|minnm|rint[a-z]|recpe|rsqrte)|[su]cvtf'
for pair in digits_cnn:generic,cortex-a76 digits_resnet:cortex-a76 digits_norms:generic; do
    name=${pair%:*} cpus=${pair#*:}
    "$INTC" --batch=32 "$MODELS/$name.onnx" -o host 2>/dev/null
    ./host train "${DIGITS[@]}" --epochs 2 --lr 0.1 --momentum 0.9 --weight-decay 0.0001 --seed 5 --checkpoint host.ckpt >host.out
    ./host predict --data "$MODELS/digits_test_images.npy" --mean 0.287 --std 0.353 --checkpoint host.ckpt --output host.npy
    for cpu in ${cpus/,/ }; do
        "$INTC" --batch=32 --target=$triple --cpu=$cpu "$MODELS/$name.onnx" -o arm 2>/dev/null
        dots=$($triple-objdump -d arm | grep -cw sdot) || true
        [ $cpu = generic ] || [ "$dots" -gt 0 ] || fail "$name: no dot instruction for $cpu"
        ! $triple-objdump -d arm | grep -E "^ +[0-9a-f]+:.*[[:space:]]($floats)[[:space:]]" || fail "$name for $cpu: floating-point arithmetic"
        arm=(qemu-aarch64 -L /usr/$triple ./arm)
        "${arm[@]}" train "${DIGITS[@]}" --epochs 2 --lr 0.1 --momentum 0.9 --weight-decay 0.0001 --seed 5 --checkpoint arm.ckpt >arm.out
        [ "$(sha_of arm.out)" = "$(sha_of host.out)" ] || fail "$name: $cpu ends in $(sha_of arm.out), the host in $(sha_of host.out)"
        "${arm[@]}" predict --data "$MODELS/digits_test_images.npy" --mean 0.287 --std 0.353 --checkpoint arm.ckpt --output arm.npy
        cmp arm.npy host.npy || fail "$name: predictions of $cpu and the host differ"
        echo "$name, $cpu: $dots dot instructions, $(sha_of arm.out)"
    done
done
