#!/bin/bash
# The parameters after training are the same bytes for 1, 2, 3 and 7 threads, and differ for another seed (so the comparison can fail).
. "$(dirname "$0")/common.sh"

for name in digits_mlp digits_cnn; do
    "$INTC" --batch=32 "$MODELS/$name.onnx" -o trainer
    for threads in 1 2 3 7; do
        ./trainer train "${DIGITS[@]}" --epochs 3 --lr 0.1 --momentum 0.9 --weight-decay 1e-4 --seed 5 --threads "$threads" >"$threads.out"
        sha=$(sha_of "$threads.out")
        [ "$sha" = "$(sha_of 1.out)" ] || fail "$name: $threads threads end in $sha, one thread in $(sha_of 1.out)"
    done
    ./trainer train "${DIGITS[@]}" --epochs 3 --lr 0.1 --momentum 0.9 --weight-decay 1e-4 --seed 6 --threads 2 >other.out
    [ "$(sha_of other.out)" != "$(sha_of 1.out)" ] || fail "$name: another seed ends in the same parameters"
    echo "$name: 1, 2, 3 and 7 threads: $(sha_of 1.out)"
done
