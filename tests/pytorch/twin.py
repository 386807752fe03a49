"""The model of a run of kind "mlip" in plain PyTorch, for encoders "vit", "bag" and "transformer" that merge no tokens."""

import json

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Linear, ModuleDict, ModuleList, Parameter


class Block(nn.Module):
    def __init__(self, width, heads=0, grid=0):
        super().__init__()
        self.norm1, self.norm2, self.heads, self.grid = nn.LayerNorm(width), nn.LayerNorm(width), heads, (grid, grid)
        if heads:
            self.attention = ModuleDict({"qkv": Linear(width, 3 * width), "out": Linear(width, width)})
        else:
            self.filter = nn.ParameterDict({"weight": torch.randn(grid, grid // 2 + 1, width, 2) * 0.02})
        self.mlp = ModuleDict({"fc1": Linear(width, 4 * width), "fc2": Linear(4 * width, width)})

    def forward(self, x, bias=None):  # [B, t, width], bias of the logits [B, 1, 1, t]
        y = self.norm1(x)
        if self.heads:
            q, k, v = self.attention["qkv"](y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, bias)  # [B, heads, t, width / heads]
            x = y = x + self.attention["out"](y.transpose(1, 2).flatten(2))
        else:
            spectrum = torch.fft.rfft2(y.unflatten(1, self.grid), dim=(1, 2), norm="ortho")
            spectrum = spectrum * torch.view_as_complex(self.filter["weight"])
            y = torch.fft.irfft2(spectrum, self.grid, dim=(1, 2), norm="ortho").flatten(1, 2)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(y))))


class Image(nn.Module):
    def __init__(self, c, embed, frequency, tokens):
        super().__init__()
        width, grid, self.c = c["width"], c["size"] // c["patch"], c
        self.patch, self.position = Linear(3 * c["patch"] ** 2, width), Parameter(torch.zeros(grid * grid, width))
        self.register_parameter("class", Parameter(torch.zeros(width)))
        self.frequency = ModuleList(Block(width, grid=grid) for _ in range(c["frequency"]))
        self.frequency_norm = nn.LayerNorm(width) if c["frequency"] else None
        self.frequency_head = Linear(width, embed, bias=False) if frequency else None
        self.block, self.norm = ModuleList(Block(width, c["heads"]) for _ in range(c["layers"])), nn.LayerNorm(width)
        self.head, self.token_head = Linear(width, embed, bias=False), Linear(width, embed, bias=False) if tokens else None

    def forward(self, pixels):  # of 0 to 255, [B, 3, S, S]
        mean, deviation = (torch.tensor(self.c[key]).view(3, 1, 1) for key in ("mean", "std"))
        pixels = (pixels.view(-1, 3, self.c["size"], self.c["size"]) / 255 - mean) / deviation
        patches = F.unfold(pixels, self.c["patch"], stride=self.c["patch"]).transpose(1, 2)  # [B, N, 3 P P]
        x = nn.Sequential(*self.frequency)(self.patch(patches) + self.position)
        heard = self.frequency_head(self.frequency_norm(x).mean(1)) if self.frequency_head else None
        x = torch.cat([getattr(self, "class").expand(len(x), 1, -1), x], 1)  # [B, 1 + N, D]
        x = self.norm(nn.Sequential(*self.block)(x))
        return self.head(x[:, 0]), heard, self.token_head(x[:, 1:]) if self.token_head else None


class Text(nn.Module):
    def __init__(self, c, size, embed, tokens):
        super().__init__()
        width, deep = c["width"], c["kind"] == "transformer"
        self.embed, self.position = nn.Embedding(size, width), Parameter(torch.zeros(c["context"], width)) if deep else None
        self.block = ModuleList(Block(width, c["heads"]) for _ in range(c["layers"] if deep else 0))
        self.norm = nn.LayerNorm(width) if deep else None
        self.head, self.token_head = Linear(width, embed, bias=False), Linear(width, embed, bias=False) if tokens else None

    def forward(self, ids):  # [B, M], 0 is padding
        x, real = self.embed(ids), (ids > 0).to(self.head.weight.dtype)
        counts = torch.ones(1)
        if self.norm:
            x, counts = x + self.position, real.sum(1, keepdim=True).clamp(min=1)
            for block in self.block:
                x = block(x, -1e4 * (1 - real)[:, None, None])
            x = self.norm(x)
        sentence = (x * real[..., None]).sum(1) / counts
        return self.head(sentence), self.token_head(x) if self.token_head else None


class Mlip(nn.Module):
    def __init__(self, model):  # `[model]` of the run with everything filled in
        super().__init__()
        words, loss = model["text"]["words"], model["loss"]
        size = 257 if words == "bytes" else 1 + (words["hash"] if "hash" in words else len(words["list"]))
        frequency, tokens = model["image"]["frequency"] > 0 and loss["frequency"] > 0, loss["token"] > 0
        self.image = Image(model["image"], model["embed"], frequency, tokens)
        self.text = Text(model["text"], size, model["embed"], tokens)
        scales = ["global"] + ["frequency"] * frequency + ["token"] * tokens
        self.scale = nn.ParameterDict({name: torch.tensor([2.65926]) for name in scales})

    @torch.no_grad()
    def embed(self, pixels, ids):
        """Unit features of pictures, those of their frequency branch or None, and those of texts, `[B, E]` each."""
        (spatial, heard, _), (text, _) = self.image(pixels), self.text(ids.long())
        return [x if x is None else F.normalize(x, dim=-1) for x in (spatial, heard, text)]


def load(path, model):
    """The model in the safetensors file `path`; `model` is a JSON text or a dictionary."""
    from safetensors.torch import load_file

    twin = Mlip(json.loads(model) if isinstance(model, str) else model)
    twin.load_state_dict(load_file(path), strict=True)
    return twin.eval()
