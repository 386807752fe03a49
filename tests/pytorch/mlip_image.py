"""Makes client/known_answers/mlip_image.json: the image encoder of the mlip task in plain PyTorch.

    pip install torch numpy && python mlip_image.py > ../../client/known_answers/mlip_image.json

Parameters have the names that the exported ones have. The filter goes through complex numbers and torch.fft; tokens are
merged by gather and scatter, one picture after the other. Everything is float64, so that what differs is the rounding of
the float32 side.
"""

import json

import torch
import torch.nn.functional as F
from torch import nn


class GlobalFilter(nn.Module):
    def __init__(self, grid, width):
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(torch.randn(grid, grid // 2 + 1, width, 2) * 0.02)

    def forward(self, x):
        batch, tokens, width = x.shape
        spectrum = torch.fft.rfft2(x.reshape(batch, self.grid, self.grid, width), dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.weight)
        y = torch.fft.irfft2(spectrum, s=(self.grid, self.grid), dim=(1, 2), norm="ortho")
        return y.reshape(batch, tokens, width)


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class FrequencyBlock(nn.Module):
    def __init__(self, grid, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.filter, self.mlp = GlobalFilter(grid, width), Mlp(width)

    def forward(self, x):
        return x + self.mlp(self.norm2(self.filter(self.norm1(x))))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, bias):
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(y.transpose(1, 2).flatten(2)), k


def plan(metric, gone):
    """New position of each token of one picture, [t]."""
    metric = F.normalize(metric, dim=1)
    scores = metric[0::2] @ metric[1::2].T
    scores[0] = -1e9
    best, found = scores.max(1)
    leaving = sorted(range(len(best)), key=lambda i: (-best[i].item(), i))[:gone]
    staying = [i for i in range(len(best)) if i not in leaving]
    to = torch.empty(len(metric), dtype=torch.long)
    to[1::2] = len(staying) + torch.arange(len(metric) // 2)
    for place, i in enumerate(staying):
        to[2 * i] = place
    for i in leaving:
        to[2 * i] = len(staying) + found[i]
    return to


def merge(to, x, size, kept):
    """Averages [t, D] weighted by size [t], and the new sizes."""
    sizes = torch.zeros(kept, dtype=x.dtype).index_add(0, to, size)
    return torch.zeros(kept, x.shape[1], dtype=x.dtype).index_add(0, to, x * size[:, None]) / sizes[:, None], sizes


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x, size, guide, gamma, gone):
        batch, tokens, _ = x.shape
        y, keys = self.attention(self.norm1(x), size.log()[:, None, None])
        x = x + y
        if gone > 0:
            with torch.no_grad():
                metric = F.normalize(keys.mean(1), dim=2)
                if guide is not None:
                    metric = torch.cat([metric, gamma * F.normalize(guide, dim=2)], 2)
                to = [plan(m, gone) for m in metric]
            kept = tokens - gone
            if guide is not None:
                guide = torch.stack([merge(to[b], guide[b], size[b], kept)[0] for b in range(batch)])
            merged = [merge(to[b], x[b], size[b], kept) for b in range(batch)]
            x, size = (torch.stack(parts) for parts in zip(*merged))
        return x + self.mlp(self.norm2(x)), size, guide


class ImageTower(nn.Module):
    def __init__(self, size, patch, width, heads, layers, embed, frequency, merged, guide):
        super().__init__()
        self.side, self.merged, self.guide, grid = patch, merged, guide, size // patch
        self.patch = nn.Linear(3 * patch * patch, width)
        self.position = nn.Parameter(torch.randn(grid * grid, width) * 0.02)
        self.register_parameter("class", nn.Parameter(torch.randn(width) * 0.02))
        self.frequency = nn.ModuleList(FrequencyBlock(grid, width) for _ in range(frequency))
        if frequency:
            self.frequency_norm = nn.LayerNorm(width)
            self.frequency_head = nn.Linear(width, embed, bias=False)
        self.block = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, embed, bias=False)
        self.token_head = nn.Linear(width, embed, bias=False)

    def forward(self, pixels):
        """Features of pictures [k, 3, S, S], and what is on the way there."""
        seen = {}
        x = F.unfold(pixels, self.side, stride=self.side).transpose(1, 2)
        x = self.patch(x) + self.position
        for i, block in enumerate(self.frequency):
            x = seen[f"frequency.{i}"] = block(x)
        guide = None
        if len(self.frequency):
            f = seen["spectral"] = self.frequency_norm(x)
            seen["frequency"] = self.frequency_head(f.mean(1))
            if self.guide > 0:
                guide = torch.cat([f.mean(1, keepdim=True), f], 1).detach()
        start = getattr(self, "class").expand(len(x), 1, -1)
        x, size = torch.cat([start, x], 1), torch.ones(len(x), 1 + x.shape[1], dtype=x.dtype)
        for i, block in enumerate(self.block):
            x, size, guide = block(x, size, guide, self.guide, self.merged[i])
            seen[f"block.{i}"] = x
        x = self.norm(x)
        seen["global"], seen["tokens"] = self.head(x[:, 0]), self.token_head(x[:, 1:])
        return seen


def listed(tensor):
    return [float(f"{v:.9g}") for v in tensor.detach().flatten().tolist()]


def main():
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    shape = {"size": 8, "patch": 2, "width": 8, "heads": 2, "layers": 2, "embed": 6, "frequency": 1, "merged": [4, 2], "guide": 1.0}
    tower = ImageTower(**shape)
    with torch.no_grad():
        for name, p in tower.named_parameters():  # none small, none 0 or 1: each must show in the result
            p.copy_((torch.randn_like(p) * 0.4 + (1.0 if "norm" in name and "weight" in name else 0.0)).to(torch.float32))
    pixels = torch.randn(3, 3, 8, 8).to(torch.float32).to(torch.float64)
    seen = tower(pixels)
    ends = [seen[name] for name in ("global", "frequency", "tokens")]
    # squares of differences and no plain sums: irfft's gradient fails on an expanded one in some versions
    loss = sum(((end - (torch.arange(end.numel()) + 1.0).sin().reshape(end.shape)) ** 2).sum() for end in ends)
    loss.backward()
    print(json.dumps({
        "shape": shape,
        "pixels": listed(pixels),
        "parameters": {name: listed(p) for name, p in tower.named_parameters()},
        "seen": {name: listed(t) for name, t in seen.items()},
        "loss": loss.item(),
        "gradients": {name: listed(p.grad) for name, p in tower.named_parameters()},
    }))


if __name__ == "__main__":
    main()
