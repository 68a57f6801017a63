# Reads `objdump -d --no-show-raw-insn` of an x86-64 program. Walks from the functions named in ROOTS (a comma list) along every call, jump and
# address taken (so a kernel handed to the thread pool is followed too) and prints each floating-point instruction it meets.
# Exit status 1 if there is one, or a root is missing; the last line counts what was walked. OUTSIDE (a comma list) names the library functions
# that may be called; any other one is a finding, since its code is not here to be looked at. ROOTS=* takes every function, OUTSIDE=* lets all pass.
#
# Floating point is: every x87 instruction (f…); conversions (cvt…, vcvt…); fused multiply-add and the other AVX-512 floating forms (vf…);
# and add sub mul div min max sqrt rcp rsqrt round dp hadd hsub addsub cmp comi ucomi getexp getmant scalef rndscale reduce range exp2
# rcp14/28 rsqrt14/28 with an ss, sd, ps, pd, sh or ph suffix; bf16 and fp16 dot products.
# Not counted, since they move or combine bits and never look at them as a number: mov…ps/pd/ss/sd, shuf, unpck, blend, perm, insert, extract,
# broadcast, gather, and, andn, or, xor in their ps/pd spelling, which compilers choose for integer vectors too.
function is_float(m) {
    if (m ~ /^f/ || m ~ /^v?cvt/ || m ~ /^vf/)
        return 1
    if (m ~ /^v?(add|sub|mul|div|min|max|sqrt|rcp|rsqrt|round|dp|hadd|hsub|addsub|cmp[a-z_]*|comi|ucomi)(ss|sd|ps|pd|sh|ph)$/)
        return 1
    return m ~ /^v(getexp|getmant|scalef|rndscale|reduce|range|exp2|rcp14|rcp28|rsqrt14|rsqrt28|comx|ucomx)(ss|sd|ps|pd|sh|ph)$/ || m ~ /^(vdpbf16ps|vdpphps|tdp(bf|fp)16ps)$/
}

/^[0-9a-f]+ <.*>:$/ {
    name = $0
    sub(/^[0-9a-f]+ </, "", name)
    sub(/>:$/, "", name)
    defined[name] = 1
    next
}

/^ +[0-9a-f]+:\t/ {
    text = $0
    sub(/^ +[0-9a-f]+:\t/, "", text)
    n = split(text, word, /[ \t]+/)
    at = 1
    while (at < n && word[at] ~ /^(lock|rep|repz|repnz|bnd|notrack|data16|cs|ds|\{.*\})$/)
        at++
    instructions[name]++
    if (is_float(word[at]))
        found[name, ++floats[name]] = text
    rest = text
    while (match(rest, /<[^>]+>/)) {
        target = substr(rest, RSTART + 1, RLENGTH - 2)
        rest = substr(rest, RSTART + RLENGTH)
        sub(/[+-]0x[0-9a-f]+$/, "", target)
        if (target != name && !((name, target) in seen)) {
            seen[name, target] = 1
            edge[name, ++edges[name]] = target
        }
    }
}

END {
    if (ROOTS == "*")
        for (f in defined)
            queue[++count] = f
    else
        count = split(ROOTS, queue, ",")
    outside_count = split(OUTSIDE, list, ",")
    for (i = 1; i <= outside_count; i++)
        allowed[list[i]] = 1
    for (i = 1; i <= count; i++) {
        reached[queue[i]] = 1
        if (!(queue[i] in defined)) {
            print "no function " queue[i] " in the program"
            bad++
        }
    }
    for (i = 1; i <= count; i++) {
        f = queue[i]
        walked += instructions[f]
        for (k = 1; k <= floats[f]; k++) {
            print f ": " found[f, k]
            bad++
        }
        for (k = 1; k <= edges[f]; k++) {
            t = edge[f, k]
            if (t in reached)
                continue
            reached[t] = 1
            if (t ~ /@plt$/ || t ~ /@@?GLIBC/ || t ~ /^\*ABS\*/) {
                sub(/@.*/, "", t)
                if (OUTSIDE != "*" && !(t in allowed)) {
                    print f ": calls " t ", which is outside the program"
                    bad++
                }
            } else if (t in defined)
                queue[++count] = t
        }
    }
    printf "%d functions, %d instructions, %d findings\n", count, walked, bad
    exit bad > 0
}
