#!/bin/bash
# A run killed (SIGKILL) at random moments and resumed each time ends in the same checkpoint, bytes and all, as one that was left alone.
. "$(dirname "$0")/common.sh"

"$INTC" --batch=32 "$MODELS/digits_cnn.onnx" -o trainer
options=("${DIGITS[@]}" --epochs 30 --lr 0.05 --momentum 0.9 --lr-schedule cosine --warmup 20 --seed 11 --checkpoint-every 7)
start=$(date +%s%N)
./trainer train "${options[@]}" --checkpoint whole.ckpt >whole.out
whole=$((($(date +%s%N) - start) / 1000000))

killed=0 rounds=0
while :; do
    rounds=$((rounds + 1))
    [ "$rounds" -le 200 ] || fail "no end after 200 rounds"
    resume=()
    [ -e part.ckpt ] && resume=(--resume part.ckpt)
    ./trainer train "${options[@]}" --checkpoint part.ckpt "${resume[@]}" >part.out 2>part.err &
    child=$!
    if [ "$killed" -lt 8 ]; then
        sleep "$(awk -v ms=$((whole * (RANDOM % 40 + 5) / 100)) 'BEGIN { print ms / 1000 }')"
        kill -9 "$child" 2>/dev/null || true
    fi
    if wait "$child" 2>/dev/null; then
        break
    fi
    [ "$killed" -lt 8 ] || fail "resuming failed: $(cat part.err)"
    killed=$((killed + 1))
done
[ "$killed" -ge 1 ] || fail "never killed in time: the run takes $whole ms"
[ "$(sha_of part.out)" = "$(sha_of whole.out)" ] || fail "killed $killed times: $(sha_of part.out), left alone: $(sha_of whole.out)"
cmp part.ckpt whole.ckpt || fail "the checkpoints differ"
[ "$(find . -name '*ckpt*' | wc -l)" -le $((2 + killed)) ] || fail "files are left behind: $(ls)"
echo "killed $killed times: $(sha_of whole.out)"
