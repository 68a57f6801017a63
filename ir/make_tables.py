#!/usr/bin/env python3
"""Writes the tables of ir/tables.h: every entry computed with 60 decimal digits and rounded half to even, so that no libm decides a bit.

Usage: python3 ir/make_tables.py tables > ir/tables.c
       python3 ir/make_tables.py curves > ir/curve_tables.c
"""
import sys
from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from statistics import NormalDist

getcontext().prec = 60
ONE, TWO = Decimal(1), Decimal(2)


def sigmoid(x):
    return ONE / (ONE + (-x).exp())


def tanh(x):
    t = (-2 * x).exp()
    return (ONE - t) / (ONE + t)


def arctan_of_inverse(n):
    total, power, k = Decimal(0), ONE / n, 0
    while power > Decimal(10) ** -70:
        total += (power if k % 2 == 0 else -power) / (2 * k + 1)
        power, k = power / (n * n), k + 1
    return total


PI = 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def erf(x):
    total, term, n = Decimal(0), x, 0
    while abs(term) > Decimal(10) ** -50:
        total += term / (2 * n + 1)
        n += 1
        term *= -x * x / n
    return 2 * total / PI.sqrt()


def normal(x):
    return (ONE + erf(x / TWO.sqrt())) / 2


def gelu_grad(x):
    return normal(x) + x * (-x * x / 2).exp() / (2 * PI).sqrt()


GELU_CUBE = Decimal("0.044715")


def gelu_tanh_gate(x):
    return sigmoid(2 * (TWO / PI).sqrt() * (x + GELU_CUBE * x**3))


def gelu_tanh_grad(x):
    g = gelu_tanh_gate(x)
    return g + x * g * (ONE - g) * 2 * (TWO / PI).sqrt() * (ONE + 3 * GELU_CUBE * x * x)


def swish_grad(x):
    s = sigmoid(x)
    return s + x * s * (ONE - s)


def mish_gate(x):
    """tanh(ln(1 + e^x)) = (w - 1) / (w + 1) with w = (1 + e^x)^2."""
    w = (ONE + x.exp()) ** 2
    return (w - 1) / (w + 1)


def mish_grad(x):
    g = mish_gate(x)
    return g + x * (ONE - g * g) * sigmoid(x)


def hard_gate(x):
    return min(max(x / 6 + ONE / 2, Decimal(0)), ONE)


def hard_swish_grad(x):
    return ONE if x > 3 else x / 3 + ONE / 2


def sine(x):
    total, term, n = Decimal(0), x, 1
    while abs(term) > Decimal(10) ** -50:
        total += term
        term *= -x * x / ((n + 1) * (n + 2))
        n += 2
    return total


def fixed(value, bits):
    return int((value * 2**bits).to_integral_value(rounding=ROUND_HALF_EVEN))


def table(name, comment, values, columns=16):
    columns = 32 if sys.argv[1] == "curves" else columns
    print(f"\n/* {comment} */")
    print(f"const int32_t {name}[{len(values)}] = {{")
    for i in range(0, len(values), columns):
        print("    " + ", ".join(str(v) for v in values[i : i + columns]) + ",")
    print("};")


def intervals(function, top):
    return [fixed(function(Decimal(i * top) / 1024), 15) for i in range(1025)]


def both_sides(function, top):
    return intervals(function, top) + intervals(lambda x: function(-x), top)


def quantile(p):
    """The z >= 0 beyond which a normal number lies on either side with probability p: erfc(z / √2) = p, by Newton's method."""
    z = Decimal(-NormalDist().inv_cdf(float(p) / 2)) if p < 1 else Decimal(0)
    for _ in range(4 if p < 1 else 0):
        z += (ONE - erf(z / TWO.sqrt()) - p) / ((TWO / PI).sqrt() * (-z * z / 2).exp())
    return z


def start():
    print("/* Tables of ir/tables.h, written by ir/make_tables.py; do not edit. Before: nothing. After: constants. */")
    print("/* clang-format off */")
    print('#include "ir/tables.h"')


def tables():
    start()
    table("table_sigmoid", "sigmoid(i / 64), 15 fraction bits", intervals(sigmoid, 16))
    table("table_sigmoid_grad", "sigmoid'(i / 64), 15 fraction bits", intervals(lambda x: sigmoid(x) * (ONE - sigmoid(x)), 16))
    table("table_tanh", "tanh(i / 128), 15 fraction bits", intervals(tanh, 8))
    table("table_tanh_grad", "tanh'(i / 128), 15 fraction bits", intervals(lambda x: ONE - tanh(x) ** 2, 8))
    exp2 = [fixed(TWO ** (Decimal(k) / 256), 16) for k in range(257)]
    table("table_exp2", "2^(k / 256), 16 fraction bits; the last entry is read with weight 0", exp2 + exp2[-1:])
    log2 = [fixed((ONE + Decimal(k) / 256).ln() / TWO.ln(), 16) for k in range(257)]
    table("table_log2", "log2(1 + k / 256), 16 fraction bits; the last entry is padding", log2 + log2[-1:])


def curves():
    start()
    table("table_erf", "erf(i / 256), 15 fraction bits", intervals(erf, 4))
    table("table_erf_grad", "erf'(i / 256), 15 fraction bits", intervals(lambda x: 2 * (-x * x).exp() / PI.sqrt(), 4))
    table("table_normal", "Φ(i / 128), 15 fraction bits", intervals(normal, 8))
    table("table_gelu_grad", "gelu'(i / 128), 15 fraction bits", intervals(gelu_grad, 8))
    table("table_gelu_tanh", "the gate of gelu's tanh form at i / 128, 15 fraction bits", intervals(gelu_tanh_gate, 8))
    table("table_gelu_tanh_grad", "the derivative of gelu's tanh form at i / 128, 15 fraction bits", intervals(gelu_tanh_grad, 8))
    table("table_swish_grad", "swish'(i / 64), 15 fraction bits", intervals(swish_grad, 16))
    table("table_mish", "tanh(softplus(±i / 64)), 15 fraction bits", both_sides(mish_gate, 16))
    table("table_mish_grad", "mish'(±i / 64), 15 fraction bits", both_sides(mish_grad, 16))
    table("table_hard", "min(i / 1536 + 1 / 2, 1), 15 fraction bits", intervals(hard_gate, 4))
    table("table_hard_grad", "the derivative of hard, 15 fraction bits", intervals(lambda x: Decimal(0) if x > 3 else ONE / 6, 4))
    table("table_hard_swish_grad", "hardswish'(i / 256), 15 fraction bits", intervals(hard_swish_grad, 4))
    table("table_softplus_tail", "ln(1 + e^(-i / 64)), 15 fraction bits", intervals(lambda x: (ONE + (-x).exp()).ln(), 16))
    table("table_exp_below", "e^(-i / 64), 15 fraction bits", intervals(lambda x: (-x).exp(), 16))
    octaves = [fixed(quantile(TWO**-(k + 1) * (ONE + Decimal(i) / 32)), 12) for k in range(31) for i in range(33)]
    table("table_quantile", "erfc(z / √2) = 2^-(k + 1) (1 + i / 32): z at 33 k + i, 12 fraction bits", octaves)
    table("table_sine", "sin(2π i / 1024), 15 fraction bits", intervals(lambda x: sine(2 * PI * x), 1))


{"tables": tables, "curves": curves}[sys.argv[1]]()
