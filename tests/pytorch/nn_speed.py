"""Training steps of client/benches/nn.rs and the same of PyTorch, in turns, one thread each.

    OMP_NUM_THREADS=1 python tests/pytorch/nn_speed.py [--rounds 5] -- cargo bench -p tessera-client --bench nn --

Prints the time of each, on the processor, and PyTorch's divided by ours: above 1 we are faster. PyTorch takes whichever of
nn.MultiheadAttention and F.scaled_dot_product_attention is faster, and the fused AdamW.
"""

import argparse
import re
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 10
SHAPES = {
    "tiny": dict(batch=96, tokens=37, width=48, heads=4, layers=2),
    "deep": dict(batch=16, tokens=65, width=256, heads=8, layers=12),
}


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class Multihead(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, width, heads, attention):
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, shape, attention):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(shape["width"], shape["heads"], attention) for _ in range(shape["layers"])))
        self.norm, self.head = nn.LayerNorm(shape["width"]), nn.Linear(shape["width"], CLASSES)

    def forward(self, x):
        return self.head(self.norm(self.blocks(x)).mean(1))


class Run:
    """One model of PyTorch, ready to be timed."""

    def __init__(self, shape, attention):
        torch.manual_seed(1)
        self.model = Model(shape, attention)
        self.x = torch.randn(shape["batch"], shape["tokens"], shape["width"])
        self.targets = torch.arange(shape["batch"]) % CLASSES
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.1, fused=True)

    def step(self):
        loss = F.cross_entropy(self.model(self.x), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def forward(self):
        with torch.inference_mode():
            self.model(self.x)

    def time(self, what, seconds=4.0):
        """Median over pieces of a tenth, in milliseconds of processor time a call."""
        call = getattr(self, what)
        call()
        start = time.process_time()
        call()
        once = max(time.process_time() - start, 1e-4)
        times, found = max(1, int(seconds / 10 / once)), []
        for _ in range(10):
            start = time.process_time()
            for _ in range(times):
                call()
            found.append((time.process_time() - start) / times * 1e3)
        return statistics.median(found)


def ours(command, name):
    """The bench's time, in milliseconds."""
    out = subprocess.run([*command, name], capture_output=True, text=True, check=True).stdout
    match = re.search(re.escape(name) + r"\s+time:\s+\[\S+ \S+ (\S+) (\S+) \S+ \S+\]", out)
    if match is None:
        raise SystemExit(f"the bench printed no time for {name}:\n{out}")
    return float(match[1]) * {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name, shape in SHAPES.items():
        runs = {kind.__name__: Run(shape, kind) for kind in (Attention, Multihead)}
        for what in ("step", "forward"):
            if options.only not in f"{name}/{what}":
                continue
            ratios = []
            for _ in range(options.rounds):
                theirs = {kind: run.time(what) for kind, run in runs.items()}
                kind = min(theirs, key=theirs.get)
                mine = ours(options.command, f"nn/{name}/{what}")
                ratios.append(theirs[kind] / mine)
                print(f"{name}/{what}: ours {mine:.2f} ms, PyTorch {theirs[kind]:.2f} ms ({kind}), {ratios[-1]:.2f}", flush=True)
            print(f"{name}/{what}: median of {options.rounds} ratios {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
