#!/bin/bash
# Models by other exporters: each is imported or refused as import_expected.txt says (data in SHARED, else beside the repository), and the start of
# a file, or a file with damaged bytes, never does worse than a refusal. Needs IMPORT_FILES, ROOT.
set -eu
shared=${SHARED:-$ROOT/../shared}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A crash ends with a signal (128 and above) or the sanitizers' status.
survives() {
    local status=0
    "$IMPORT_FILES" "$@" summary >"$folder/log" 2>&1 || status=$?
    if [ "$status" -gt 1 ] || grep -q -e "internal error" -e Sanitizer "$folder/log"; then
        echo "FAILED: status $status for $*"
        cat "$folder/log"
        exit 1
    fi
}

damaged=0
for model in "$ROOT"/models/*.onnx; do
    [ -f "$model" ] || continue
    size=$(stat -c %s "$model")
    for part in 0 1 2 3 5 7 9; do
        head -c $((size * part / 10)) "$model" >"$folder/cut.onnx"
        survives "$folder/cut.onnx" 4 auto
        cp "$model" "$folder/bytes.onnx"
        for step in 1 2 3 4 5 6; do
            printf "\\x$(printf %02x $((part * 29 + step * 7)))" |
                dd of="$folder/bytes.onnx" bs=1 seek=$(((part * 131 + step * 977) % size)) conv=notrunc status=none
        done
        survives "$folder/bytes.onnx" 4 auto
        damaged=$((damaged + 2))
    done
done
echo "damaged files: $damaged, none did worse than a refusal"
if [ ! -d "$shared/data/onnx" ]; then
    echo "skipped: no data/onnx"
    exit 77
fi
"$IMPORT_FILES" "$shared/data/onnx" "$ROOT/tests/e2e/import_expected.txt"
