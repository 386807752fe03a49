"""Whole training steps of the image-text model here and in PyTorch, in turns, one thread each.

    cargo build --workspace --example steps
    OMP_NUM_THREADS=1 python tests/pytorch/speed.py target/debug/examples/steps [--rounds 3]

A step is everything: pictures and texts made ready, both encoders, the contrasts, gradients and AdamW (PyTorch's fused one). Times
are of the processor. Prints PyTorch's time divided by ours (above 1 we are faster), then what token merging does to ours.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

from twin import Mlip

TEXT = {"kind": "bag", "context": 8, "width": 64, "heads": 0, "layers": 0, "words": {"hash": 1024}}
IMAGE = {"mean": [0.5] * 3, "std": [0.25] * 3, "frequency": 1}
SIZES = {
    "tiny": (96, 64, {**IMAGE, "size": 24, "patch": 4, "width": 48, "heads": 4, "layers": 2}),
    "deep": (16, 256, {**IMAGE, "size": 64, "patch": 8, "width": 256, "heads": 8, "layers": 12}),
}
MERGED = [
    ("tiny", ["model.image.merge=[9,9]"]),
    ("tiny", ["model.image.merge=[18,9]"]),
    ("deep", ["model.image.merge=[2,2,2,2,2,2,2,2,2,2,2,2]"]),
    ("deep", ["model.image.merge=[4,4,4,4,4,4,4,4,4,4,4,4]"]),
    ("tiny", ["model.loss.token=0.5"]),
    ("tiny", ["model.loss.token=0.5", "model.image.merge=[9,9]"]),
]


class Theirs:
    def __init__(self, name):
        torch.manual_seed(1)
        self.batch, embed, image = SIZES[name]
        self.model = Mlip({"embed": embed, "image": image, "text": TEXT, "loss": {"frequency": 0.5, "token": 0.0}})
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
        self.pixels = torch.rand(4 * self.batch, 3 * image["size"] ** 2) * 255
        self.ids = torch.randint(1, 1025, (4 * self.batch, 8))

    def contrast(self, a, b, scale):
        logits = self.model.scale[scale].exp().clamp(max=100) * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def step(self):
        rows = torch.randperm(len(self.pixels))[: self.batch]
        spatial, heard, _ = self.model.image(self.pixels[rows])
        text, _ = self.model.text(self.ids[rows])
        loss = self.contrast(spatial, text, "global") + 0.5 * self.contrast(heard, text, "frequency")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def time(self, steps):
        start = time.process_time()
        for _ in range(steps):
            self.step()
        return (time.process_time() - start) / steps * 1e3


def ours(binary, name, steps, *settings):
    out = subprocess.run([binary, name, str(steps), *settings], capture_output=True, text=True, check=True).stdout
    lines = [json.loads(line) for line in out.splitlines()]
    return min(line["ms"] for line in lines), max(line["tokens_per_second"] for line in lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name, steps in (("tiny", 30), ("deep", 8)):
        theirs, ratios = Theirs(name), []
        theirs.time(3)
        for _ in range(options.rounds):
            mine, tokens = ours(options.binary, name, steps)
            other = min(theirs.time(steps) for _ in range(3))
            ratios.append(other / mine)
            print(f"{name}: ours {mine:.1f} ms, {tokens:.0f} tokens/s; PyTorch {other:.1f} ms; {ratios[-1]:.2f}", flush=True)
        print(f"{name}: median of {options.rounds} ratios {statistics.median(ratios):.2f}", flush=True)
    for name, settings in MERGED:
        steps = 30 if name == "tiny" else 8
        whole = ours(options.binary, name, steps)[0]
        merged, tokens = ours(options.binary, name, steps, *settings)
        print(f"{name} {' '.join(settings)}: {merged:.1f} ms, {tokens:.0f} tokens/s, {whole / merged:.2f} times plain", flush=True)


if __name__ == "__main__":
    main()
