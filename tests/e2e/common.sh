# Sourced by every script here. Needs INTC (the compiler) and ROOT (the repository); leaves the script in an empty folder that goes at the end.
set -euo pipefail
: "${INTC:?set INTC to the compiler}"
ROOT=${ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
INTC=$(realpath "$INTC")
MODELS=$ROOT/models
HERE=$ROOT/tests/e2e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

DIGITS=(--data "$MODELS/digits_train_images.npy" --target "$MODELS/digits_train_labels.npy" --mean 0.287 --std 0.353)
DIGITS_TEST=(--data "$MODELS/digits_test_images.npy" --target "$MODELS/digits_test_labels.npy" --mean 0.287 --std 0.353)

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# sha_of FILE: the parameters' SHA-256 that `train` printed last.
sha_of() {
    grep -oE '\b[0-9a-f]{64}\b' "$1" | tail -n 1 | grep . || fail "$1 holds no SHA-256: $(tail -n 3 "$1")"
}

# accuracy_of FILE: the last percentage in it, as NN.N.
accuracy_of() {
    grep -oE '[0-9]+(\.[0-9]+)? ?%' "$1" | tail -n 1 | tr -d ' %' | grep . || fail "$1 holds no accuracy: $(tail -n 3 "$1")"
}

# at_least A B: A >= B as decimals.
at_least() {
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 >= b + 0) }'
}
