#!/usr/bin/env python3
"""gradient_torch.py OP_GRADIENT: every gradient rule against PyTorch's autograd, in double precision.

OP_GRADIENT --dump prints one case a line: operands, attributes, weights, the output and the gradients of Σ weights·output. The same function is written here
with torch alone. Exit status 77 where PyTorch is missing."""
import json
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("skipped: PyTorch is missing")
    sys.exit(77)

TOLERANCE = 1e-9


def padded(x, pads, value=0.0):
    """x with the begins and ends of its spatial dimensions."""
    k = len(pads) // 2
    return F.pad(x, [p for i in reversed(range(k)) for p in (pads[i], pads[k + i])], value=value)


def conv(a, x, w):
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
    return function(padded(x, a["pads"]), w, stride=a["strides"], dilation=a["dilations"], groups=a["group"])


def conv_dgrad(a, x, w):
    """The transpose of conv with respect to its input, by autograd of that linear function."""
    zero = torch.zeros(a["shape"], dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(conv(a, zero, w), zero, x, create_graph=True)[0]


def gather(a, x, t):
    """x at t along the axis, 0 outside."""
    axis = a["axis"]
    inside = (t >= 0) & (t < x.shape[axis])
    taken = x.index_select(axis, t.clamp(0, x.shape[axis] - 1).flatten())
    taken = taken.reshape(x.shape[:axis] + t.shape + x.shape[axis + 1 :])
    return taken * inside.reshape(inside.shape + (1,) * (x.dim() - axis - 1))


def gather_grad(a, x, t):
    """The transpose of gather, by autograd of that linear function."""
    zero = torch.zeros(a["shape"], dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(gather(a, zero, t), zero, x, create_graph=True)[0]


def windows(a, x, value):
    """[N, C, outputs..., places] by strided views of the padded x."""
    x = padded(x, a["pads"], value)
    k = len(a["kernel"])
    for i, (size, stride, dilation) in enumerate(zip(a["kernel"], a["strides"], a["dilations"])):
        x = x.unfold(2 + i, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.flatten(-k)


def clip(a, x):
    return torch.clamp(x, a.get("min"), a.get("max"))


def transposed(x, yes):
    return x.transpose(-1, -2) if yes else x


def labelled(a, scores, t):
    """−scores at the label, 0 where ignored."""
    picked = -scores.gather(a["axis"], t.unsqueeze(a["axis"])).squeeze(a["axis"])
    return torch.where(t == a["ignore_index"], torch.zeros_like(picked), picked)


def pad(a, x):
    for d, (low, high, interior) in enumerate(zip(a["low"], a["high"], a["interior"])):
        n = x.shape[d]
        index = torch.arange(n) * (interior + 1) + low
        shape = list(x.shape)
        shape[d] = low + high + (n - 1) * interior + n
        x = torch.zeros(shape, dtype=x.dtype).index_copy(d, index, x)
    return x


def sliced(a, x):
    for d, (start, step, size) in enumerate(zip(a["starts"], a["steps"], a["shape"])):
        x = x.index_select(d, torch.arange(size) * step + start)
    return x


def bias(a, x, b):
    return x + b.reshape([-1 if d == a["axis"] else 1 for d in range(x.dim())])


FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "softplus_tail": lambda x: F.softplus(x) - torch.relu(x),
    "exp_below": lambda x: F.elu(x) - torch.relu(x),
    "hard_sigmoid": lambda x: torch.clamp(x / 6 + 0.5, 0, 1),
    "hinge": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swish": F.silu,
    "mish": F.mish,
    "hard_swish": F.hardswish,
}


def masked_softmax(a, x, mask):
    """Zeros where masked; a row that is masked everywhere is zero."""
    p = torch.softmax(x.masked_fill(mask == 0, -float("inf")), a["axis"])
    return p.nan_to_num(0.0)


def normalize(a, x, mean, _code, scale=None):
    """Statistics over the dimensions where mean has 1; epsilon as in build.h."""
    axes = [d for d in range(x.dim()) if mean.shape[d] == 1]
    d = x - x.mean(axes, keepdim=True) if a["centered"] else x
    y = d / torch.sqrt((d * d).mean(axes, keepdim=True) + 2.0 ** -10)
    return y if scale is None else y * scale


OPS = {
    "normalize": normalize,
    "mul_const": lambda a, x: x * a["value"],
    "matmul": lambda a, x, w: transposed(x, a["ta"]) @ transposed(w, a["tb"]),
    "conv": conv,
    "conv_dgrad": conv_dgrad,
    "gather": gather,
    "gather_grad": gather_grad,
    "bias": bias,
    "add": lambda a, x, y: x + y,
    "sub": lambda a, x, y: x - y,
    "mul": lambda a, x, y: x * y,
    "div": lambda a, x, y: x / y,
    "neg": lambda a, x: -x,
    "relu": lambda a, x: torch.relu(x),
    "leaky_relu": lambda a, x: F.leaky_relu(x, a["alpha"]),
    "clip": clip,
    "round": lambda a, x: x,
    "curve": lambda a, x: FUNCTIONS[a["function"]](x),
    "gated": lambda a, x: FUNCTIONS[a["function"]](x),
    "abs": lambda a, x: torch.abs(x),
    "exp": lambda a, x: torch.exp(x),
    "log": lambda a, x: torch.log(x),
    "sqrt": lambda a, x: torch.sqrt(x),
    "gate": lambda a, x, mask: x * mask,
    "reduce_sum": lambda a, x: x.sum(a["axes"], keepdim=a["keepdims"] != 0),
    "maxpool": lambda a, x: windows(a, x, -float("inf")).max(-1).values,
    "sumpool": lambda a, x: windows(a, x, 0.0).sum(-1),
    "reshape": lambda a, x: x.reshape(a["shape"]),
    "transpose": lambda a, x: x.permute(a["perm"]),
    "slice": sliced,
    "pad": pad,
    "reverse": lambda a, x: x.flip(a["axes"]),
    "broadcast": lambda a, x: x.broadcast_to(a["shape"]),
    "concat": lambda a, *x: torch.cat(x, a["axis"]),
    "softmax": lambda a, x: torch.softmax(x, a["axis"]),
    "masked_softmax": masked_softmax,
    "log_softmax": lambda a, x: torch.log_softmax(x, a["axis"]),
    "cross_entropy": lambda a, x, t: labelled(a, torch.log_softmax(x, a["axis"]), t),
    "pick": labelled,
}


def tensor(entry, kind=torch.float64):
    return torch.tensor(entry["data"], dtype=kind).reshape(entry["shape"])


def wrong(found, expected):
    return found.shape != expected.shape or not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def check(case):
    """The names of what differs."""
    inputs = []
    for i in range(8):
        if f"in{i}" in case:
            real = f"grad{i}" in case
            inputs.append(tensor(case[f"in{i}"], torch.float64 if real else torch.int64).requires_grad_(real))
    output = OPS[case["op"]](case["attrs"], *inputs)
    (output * tensor(case["weights"])).sum().backward()
    bad = ["output"] if wrong(output, tensor(case["output"])) else []
    return bad + [f"grad{i}" for i, x in enumerate(inputs) if x.requires_grad and wrong(x.grad, tensor(case[f"grad{i}"]))]


def main():
    text = subprocess.run([sys.argv[1], "--dump"], check=True, capture_output=True, text=True).stdout
    cases = [json.loads(line) for line in text.splitlines()]
    failed = {case["name"]: bad for case in cases if (bad := check(case))}
    for name, bad in failed.items():
        print(f"{name}: {', '.join(bad)} differ from PyTorch")
    missing = set(OPS) - {case["op"] for case in cases}
    if missing:
        print(f"no case of {', '.join(sorted(missing))}")
    print(f"{len(cases) - len(failed)} of {len(cases)} gradient cases equal PyTorch's")
    sys.exit(1 if failed or missing or not cases else 0)


main()
