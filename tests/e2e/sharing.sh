#!/bin/bash
# Equal kernels of a module are one function: training calls kernels far more often than it has them, and no two bodies are equal. What a
# normalisation reads with more places is stored by the kernel that rounds it.
. "$(dirname "$0")/common.sh"

"$INTC" --batch=32 -O0 --emit=llvm "$MODELS/digits_resnet.onnx" -o module.ll
kernels=$(grep -c '^define internal void @' module.ll)
calls=$(sed -n 's/^@calls[^=]*= .* constant \[\([0-9]*\) x .*/\1/p' module.ll)
[ "$calls" -ge $((2 * kernels)) ] || fail "$calls calls of $kernels kernels"

# A body without its name, one a line.
bodies=$(sed -n '/^define internal void @/,/^}/p' module.ll | sed 's/^define internal void @[^(]*/define/' | tr '\n' ' ' | sed 's/ } /\n/g')
equal=$(printf '%s\n' "$bodies" | sort | uniq -d | wc -l)
[ "$equal" = 0 ] || fail "$equal bodies are there more than once"
"$INTC" --batch=32 --stop-after=memplan "$MODELS/digits_resnet.onnx" -o planned.ir
refined=$(grep -c ' = refine ' planned.ir)
beside=$(grep -c ' = refine .* beside ' planned.ir)
norms=$(sed -n 's/^.* = norm_apply \(%[^,]*\),.*/\1/p' planned.ir | sort -u | wc -l)
[ "$norms" -gt 0 ] && [ "$refined" = "$norms" ] && [ "$beside" = "$refined" ] ||
    fail "$norms normalisations read $refined refined values, $beside of them stored beside the rounded ones"
echo "$kernels kernels, $calls calls, $beside refined values"
