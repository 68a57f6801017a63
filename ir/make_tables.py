#!/usr/bin/env python3
"""Writes ir/tables.c: every entry computed with 60 decimal digits and rounded half to even, so that no libm decides a bit.

Usage: python3 ir/make_tables.py > ir/tables.c
"""
from decimal import ROUND_HALF_EVEN, Decimal, getcontext

getcontext().prec = 60
ONE, TWO = Decimal(1), Decimal(2)


def sigmoid(x):
    return ONE / (ONE + (-x).exp())


def tanh(x):
    t = (-2 * x).exp()
    return (ONE - t) / (ONE + t)


def fixed(value, bits):
    return int((value * 2**bits).to_integral_value(rounding=ROUND_HALF_EVEN))


def table(name, comment, values, columns=16):
    print(f"\n/* {comment} */")
    print(f"const int32_t {name}[{len(values)}] = {{")
    for i in range(0, len(values), columns):
        print("    " + ", ".join(str(v) for v in values[i : i + columns]) + ",")
    print("};")


def intervals(function, top):
    return [fixed(function(Decimal(i * top) / 1024), 15) for i in range(1025)]


print("/* Tables of ir/tables.h, written by ir/make_tables.py; do not edit. Before: nothing. After: constants. */")
print("/* clang-format off */")
print('#include "ir/tables.h"')
table("table_sigmoid", "sigmoid(i / 64), 15 fraction bits", intervals(sigmoid, 16))
table("table_sigmoid_grad", "sigmoid'(i / 64), 15 fraction bits", intervals(lambda x: sigmoid(x) * (ONE - sigmoid(x)), 16))
table("table_tanh", "tanh(i / 128), 15 fraction bits", intervals(tanh, 8))
table("table_tanh_grad", "tanh'(i / 128), 15 fraction bits", intervals(lambda x: ONE - tanh(x) ** 2, 8))
exp2 = [fixed(TWO ** (Decimal(k) / 256), 16) for k in range(257)]
table("table_exp2", "2^(k / 256), 16 fraction bits; the last entry is read with weight 0", exp2 + exp2[-1:])
log2 = [fixed((ONE + Decimal(k) / 256).ln() / TWO.ln(), 16) for k in range(257)]
table("table_log2", "log2(1 + k / 256), 16 fraction bits; the last entry is padding", log2 + log2[-1:])
