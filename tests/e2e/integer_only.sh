#!/bin/bash
# No floating-point instruction is reachable from step, calibrate, infer and the runtime's mapping of data in any trainer built here, which call no
# library function that could hold one; nor does the rest of the trainer contain any. And the check itself finds planted ones: in each root, in a
# kernel, and of every kind.
. "$(dirname "$0")/common.sh"
[ "$(uname -m)" = x86_64 ] || { echo "skipped: the list of instructions is for x86-64"; exit 77; }
[ "${SANITIZED:-0}" = 0 ] || { echo "skipped: trainers of this build hold the sanitizers' code"; exit 77; }
command -v objdump >/dev/null || { echo "skipped: no objdump"; exit 77; }

roots=intc_entry_step,intc_entry_calibrate,intc_entry_infer,intc_rt_feed
outside=memcpy,memmove,memset,memcmp,pthread_mutex_lock,pthread_mutex_unlock,pthread_cond_wait,pthread_cond_signal,pthread_cond_broadcast,abort,__stack_chk_fail

check() { # check FILE ROOTS [OUTSIDE]
    objdump -d --no-show-raw-insn "$1" | awk -v ROOTS="$2" -v OUTSIDE="${3-$outside}" -f "$HERE/integer_only.awk"
}

# The kernels, which the entry functions reach through the table of calls: hidden functions with a number after their name.
kernels() {
    objdump -t "$1" | awk '/ \.hidden / && $3 == "F" && $4 == ".text" && $NF ~ /\.[0-9]+$/ && $NF !~ /\.(isra|part|constprop)\./ { printf ",%s", $NF }'
}

# plant FILE FUNCTION: addss %xmm0,%xmm0 over the function's first bytes.
plant() {
    local address section
    address=$(objdump -t "$1" | awk -v f="$2" '$NF == f && !shown { print $1; shown = 1 }')
    [ -n "$address" ] || fail "no symbol $2 to plant in"
    section=$(objdump -h "$1" | awk '$2 == ".text" { print $4, $6 }')
    set -- "$1" "$((16#$address - 16#${section% *} + 16#${section#* }))"
    printf '\xf3\x0f\x58\xc0' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# Every kind of floating instruction counts, and what integer code uses does not.
floats=('fadd %st(1),%st' 'fldl (%rax)' 'addss %xmm1,%xmm0' 'mulpd %xmm1,%xmm0' 'divsd %xmm1,%xmm0' 'sqrtps %xmm1,%xmm0' 'maxps %xmm1,%xmm0'
    'cmpltps %xmm1,%xmm0' 'ucomiss %xmm1,%xmm0' 'cvtsi2sd %rax,%xmm0' 'cvttps2dq %xmm1,%xmm0' 'roundss $1,%xmm1,%xmm0' 'haddps %xmm1,%xmm0'
    'vaddps %ymm2,%ymm1,%ymm0' 'vmulss %xmm2,%xmm1,%xmm0' 'vfmadd231ps %ymm2,%ymm1,%ymm0' 'vcvtdq2ps %ymm1,%ymm0' 'vrcp14ps %zmm1,%zmm0'
    'vrndscaleps $1,%zmm1,%zmm0' 'vaddps %zmm2,%zmm1,%zmm0{%k1}' 'vcmpltps %zmm2,%zmm1,%k1' 'vdpps $1,%xmm2,%xmm1,%xmm0')
integers=('movaps %xmm1,%xmm0' 'movss (%rax),%xmm0' 'vmovups (%rax),%ymm0' 'xorps %xmm0,%xmm0' 'vandps %ymm2,%ymm1,%ymm0' 'shufps $1,%xmm1,%xmm0'
    'vbroadcastss (%rax),%ymm0' 'vpmaddwd %ymm2,%ymm1,%ymm0' 'vpmaxsd %ymm2,%ymm1,%ymm0' 'pcmpgtd %xmm1,%xmm0' 'vpdpbusd %zmm2,%zmm1,%zmm0'
    'vextractf128 $1,%ymm1,%xmm0' 'vpermilps $1,%ymm1,%ymm0' 'unpcklps %xmm1,%xmm0' 'cmpsb' 'subq %rax,%rbx' 'imul %rax,%rbx' 'cltq')
for instruction in "${floats[@]}"; do
    printf '.globl root\n.type root,@function\nroot: %s\n ret\n' "$instruction" | as -o one.o -
    ! check one.o root >one.out || fail "'$instruction' passes as integer"
done
for instruction in "${integers[@]}"; do
    printf '.globl root\n.type root,@function\nroot: %s\n ret\n' "$instruction" | as -o one.o -
    check one.o root >one.out || fail "'$instruction' counts as floating point: $(cat one.out)"
done

for cpu in x86-64 x86-64-v3 host; do
    for name in digits_mlp digits_cnn lenet5 vgg; do
        option=(--cpu="$cpu")
        [ "$cpu" = host ] && option=()
        "$INTC" --batch=32 "${option[@]}" "$MODELS/$name.onnx" -o trainer
        check trainer "$roots$(kernels trainer)" >found || fail "$name for $cpu: $(head -n 20 found)"
        check trainer '*' '*' >all || fail "$name for $cpu, whole program: $(head -n 20 all)"
        echo "$name, $cpu: $(tail -n 1 found); whole program: $(tail -n 1 all)"
    done
done

kernel=$(kernels trainer | tr , '\n' | grep -m 1 '^matmul')
[ -n "$kernel" ] || fail "no kernel of a matrix product in the trainer"
for function in ${roots//,/ } "$kernel"; do
    cp trainer planted
    plant planted "$function"
    ! check planted "$roots$(kernels planted)" >found || fail "a floating-point instruction planted in $function is not found"
    grep -q "^$function: addss" found || fail "planted in $function, found: $(cat found)"
done
echo "planted in ${roots//,/ } $kernel: found each time"
