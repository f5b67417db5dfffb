"""What PyTorch does on the same card, with the sizes that the rows of `incise bench` are held to.

  python3 tools/gpu_torch.py [--only PART …] [--device cpu --small]

  limits      a copy, large products, products of the GPT-J-6B shape, 20 s of products without pause
  attention   scaled_dot_product_attention, its flash backend alone: GPT-J's 16 heads of 256, 8,192
              tokens in sequences of 128, 256 and 512; forward, and forward + backward
  elements    layer norm, tanh GELU and a residual add over 1 GB
  gram        lower triangle of K^T K, K (8192, 16384): in one full product, and by panels of 2,048
  cholesky    f64, (16384, 16384)
  prefill     64 sequences of 128 tokens through the blocks of the GPT-J-6B shape

In bf16 where nothing else is said. The last line is JSON in the form of `incise bench -o`: rows of
`work` (bytes that must move, floating-point operations that must be made, tokens) in `seconds`, the
median of 20 runs (5 of the Cholesky), and `spread`, half of what lies between the
quartiles. CUDA events take the time, one pair a run, all runs enqueued at once behind other work,
so that what enqueueing costs is not in it; operands alternate between sets that together are
larger than the L2 cache. --small is there to see that everything runs.
"""

import argparse
import json
import math
import sys
import time
import traceback

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

BF16 = torch.bfloat16


class Bench:
    """Where it runs, how large, and the rows so far."""

    def __init__(self, device, small):
        self.device, self.small, self.rows = device, small, []

    def of(self, real, small):
        """A size: the real one, or one to see that it runs."""
        return small if self.small else real

    def draw(self, *shape, dtype=BF16):
        return torch.randn(*shape, device=self.device, dtype=dtype)

    def sets(self, *shapes, many=3):
        """Operands, `many` times."""
        return [[self.draw(*shape) for shape in shapes] for _ in range(many)]

    def row(self, name, shape, unit, work, run, runs=20):
        """Times run(i) for i = 0, 1, …"""
        runs = self.of(runs, 2)
        for i in range(2):
            run(i)
        seconds = sorted(self.on_card(run, runs) if self.device == "cuda" else self.here(run, runs))
        low, middle, high = (seconds[round(part * (runs - 1))] for part in (0.25, 0.5, 0.75))
        row = dict(part="torch", name=name, shape=shape, seconds=middle, spread=(high - low) / 2)
        self.rows.append(row | dict(work=work, unit=unit))

    def on_card(self, run, runs):
        torch.cuda.synchronize()
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        busy = self.draw(8192, 8192)
        for _ in range(10):  # some 15 ms, while the first runs are enqueued
            busy @ busy
        for i, (start, end) in enumerate(pairs):
            start.record()
            run(i)
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def here(self, run, runs):
        clocks = [time.perf_counter()]
        for i in range(runs):
            run(i)
            clocks.append(time.perf_counter())
        return [end - start for start, end in zip(clocks, clocks[1:])]


def limits(bench):
    n = bench.of(1 << 28, 1 << 10)
    x, y = (bench.draw(n, dtype=torch.float32) for _ in range(2))
    bench.row("copy", f"{n}", "Bytes", 8 * n, lambda _: y.copy_(x))
    del x, y
    side = bench.of(8192, 64)
    d, f = bench.of(4096, 32), bench.of(16384, 128)
    sizes = [(side, side, side)]
    sizes += [(n, *of) for n in (side, side // 16) for of in ((d, d), (f, d), (d, f))]
    for kind in (BF16, torch.float32):  # f32 without tf32, as is PyTorch's default
        for n, m, k in sizes:
            # Three sets: a 4096 × 4096 weight and 512 rows in bf16 are 38 MB.
            sets = [[bench.draw(*s, dtype=kind) for s in ((n, k), (m, k))] for _ in range(3)]

            def product(i):
                x, w = sets[i % 3]
                return linear(x, w)

            name = f"product with {'BF16' if kind == BF16 else 'F32'}"
            bench.row(name, f"{n} × {m} × {k}", "Flop", 2 * n * m * k, product)
    x, work, done = bench.draw(side, side), 0, bench.of(20.0, 0.1)
    began = time.monotonic()
    while time.monotonic() - began < done:
        for _ in range(50):
            x @ x
        if bench.device == "cuda":
            torch.cuda.synchronize()
        work += 50 * 2 * side**3
    row = dict(part="torch", name="sustained products", shape=f"{side} × {side} × {side}")
    row |= dict(seconds=time.monotonic() - began, spread=0.0, work=work, unit="Flop")
    bench.rows.append(row)


def attention(bench):
    heads, width, tokens = bench.of(16, 2), bench.of(256, 64), bench.of(8192, 64)
    for length in (128, 256, 512):
        length = bench.of(length, length // 16)
        sequences = tokens // length
        sets = bench.sets(*[(sequences, heads, length, width)] * 4)
        for q, k, v, _ in sets:
            for x in (q, k, v):
                x.requires_grad_()

        def forward(i):
            q, k, v, _ = sets[i % 3]
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return scaled_dot_product_attention(q, k, v, is_causal=True)

        def without_grad(i):
            with torch.no_grad():
                return forward(i)

        def both(i):
            q, k, v, dout = sets[i % 3]
            return torch.autograd.grad(forward(i), (q, k, v), dout)

        # Products of queries with the keys before them: two forward, five more backward.
        product = 2 * sequences * heads * width * length * (length + 1) // 2
        shape = f"{sequences} × {length}, {heads} × {width}"
        bench.row("attention, bf16", shape, "Flop", 2 * product, without_grad)
        bench.row("attention, forward + backward, bf16", shape, "Flop", 7 * product, both)


def elements(bench):
    d, f = bench.of(4096, 32), bench.of(16384, 128)
    of = bench.of(1 << 28, 1 << 10)  # numbers in two tensors are 1 GB
    n = of // d
    (x, y), gain = bench.sets((n, d), (n, d), many=1)[0], bench.draw(d)
    shape, two = f"{n} × {d}", 4 * n * d
    bench.row("layer norm, bf16", shape, "Bytes", two, lambda _: layer_norm(x, (d,), gain, gain))
    bench.row("residual, bf16", shape, "Bytes", 6 * n * d, lambda _: y.add_(x))
    x = x.view(of // f, f)
    shape = f"{of // f} × {f}"
    bench.row("gelu_tanh, bf16", shape, "Bytes", two, lambda _: gelu(x, approximate="tanh"))


def gram(bench):
    n, f, panel = bench.of(8192, 64), bench.of(16384, 128), bench.of(2048, 32)
    k, work = bench.draw(n, f), n * f * f  # the triangle's; the full product makes twice that
    bench.row("second moment, full", f"{n} × {f}", "Flop", work, lambda _: k.T @ k)

    def panels(_):
        for start in range(0, f, panel):
            k[:, start : start + panel].T @ k[:, : start + panel]

    bench.row(f"second moment, panels of {panel}", f"{n} × {f}", "Flop", work, panels)


def cholesky(bench):
    f = bench.of(16384, 64)
    x = bench.draw(f, f, dtype=torch.float64)
    # Eigenvalues of (x + xT) / 2 lie within sqrt(2 F) of zero, all but surely.
    a = (x + x.T) / 2 + 2 * math.sqrt(2 * f) * torch.eye(f, device=bench.device, dtype=x.dtype)
    del x

    def run(_):
        torch.linalg.cholesky_ex(a)  # which does not wait to see whether it went well

    bench.row("cholesky", f"{f} × {f}", "Flop", f**3 // 3, run, runs=5)


def prefill(bench):
    """GPT-J's blocks: one product for q, k and v together, attention and the feed-forward side by
    side on the same norm."""
    sequences, length = bench.of(64, 2), bench.of(128, 5)
    layers, d, heads, rotary = bench.of(28, 3), bench.of(4096, 32), bench.of(16, 2), bench.of(64, 8)
    width = d // heads
    tokens = (sequences, length, d)

    def matrix(out, inner):
        return bench.draw(out, inner) / math.sqrt(inner)

    blocks = [
        (matrix(3 * d, d), matrix(d, d), matrix(4 * d, d), bench.draw(4 * d), matrix(d, 4 * d))
        for _ in range(layers)
    ]
    entry, gain, bias = bench.draw(*tokens), bench.draw(d), bench.draw(d)
    angle = torch.arange(length)[:, None] * 1e4 ** (-torch.arange(0, rotary, 2) / rotary)
    turn = torch.polar(torch.ones_like(angle), angle).to(bench.device)
    cos, sin = (x.to(BF16) for x in (turn.real, turn.imag))

    def rotated(x):  # (sequences, heads, length, width), neighbours paired
        a, b = x[..., 0:rotary:2], x[..., 1:rotary:2]
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
        return torch.cat((turned, x[..., rotary:]), -1)

    @torch.no_grad()
    def run(_):
        x = entry
        for qkv, out, up, up_bias, down in blocks:
            h = layer_norm(x, (d,), gain, bias)
            q, k, v = linear(h, qkv).view(*tokens[:2], 3, heads, width).permute(2, 0, 3, 1, 4)
            o = scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
            o = linear(o.transpose(1, 2).reshape(tokens), out)
            x = x + o + linear(gelu(linear(h, up, up_bias), approximate="tanh"), down, bias)

    name, shape = f"prefill of {sequences} × {length}, bf16", f"{layers} layers of {d}"
    bench.row(name, shape, "Tokens", sequences * length, run)


PARTS = {part.__name__: part for part in (limits, attention, elements, gram, cholesky, prefill)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="to see that everything runs")
    options = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(options.device, options.small)
    failed = False
    for name in options.only:
        try:
            PARTS[name](bench)
            print(f"{name}: done", flush=True)
        except Exception:  # the next part may still tell something
            failed = True
            print(f"{name}: {traceback.format_exc()}", flush=True)
    card = torch.cuda.get_device_name() if options.device == "cuda" else "processor"
    print("JSON" + json.dumps({"torch": torch.__version__, "device": card, "rows": bench.rows}))
    sys.exit(failed)


if __name__ == "__main__":
    main()
