"""Makes client/known_answers/mlip_text.json: the text encoder and the terms of the loss of the task "mlip", in PyTorch.

    pip install torch numpy && python tests/pytorch/mlip_text.py > client/known_answers/mlip_text.json

Everything is drawn here, rounded to what float32 holds, and computed in float64. An encoder's objective is the sum of its
features times fixed weights, so every gradient counts; features of padding are no part of it.
"""

import json
import math

import torch
import torch.nn.functional as F

from twin import Text

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)


def rounded(tensor):
    return tensor.to(torch.float32).to(torch.float64)


def draw(*shape):
    return rounded(torch.randn(*shape))


def tensor(x):
    return {"shape": list(x.shape), "values": [float(f"{value:.9g}") for value in x.detach().flatten().tolist()]}


def encoder(kind, width, heads, layers, ids, vocabulary=11, embed=4):
    context = ids.shape[1]
    config = {"kind": kind, "context": context, "width": width, "heads": heads, "layers": layers}
    text = Text(config, vocabulary, embed, True)
    with torch.no_grad():
        for parameter in text.parameters():
            parameter.copy_(rounded(parameter + 0.3 * torch.randn(parameter.shape)))
    by_text, by_token = draw(len(ids), embed), draw(len(ids), context, embed)
    features, tokens = text(ids)
    real = (ids > 0)[..., None]
    tokens = tokens * real
    ((features * by_text).sum() + (tokens * by_token).sum()).backward()
    named = dict(text.named_parameters())
    return config | {
        "vocabulary": vocabulary,
        "embed": embed,
        "ids": tensor(ids.double()),
        "parameters": {name: tensor(p) for name, p in named.items()},
        "by_text": tensor(by_text),
        "by_token": tensor(by_token),
        "global": tensor(features),
        "tokens": tensor(tokens),
        "gradients": {name: tensor(p.grad) for name, p in named.items()},
    }


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-12).sqrt()


def scale(log):
    return log.clamp(max=math.log(100)).exp()


def both_ways(forth, back, log, same):
    pairs = len(forth)
    out = torch.zeros(pairs, pairs) if same is None else -1e4 * (same & ~torch.eye(pairs, dtype=torch.bool))
    own = torch.arange(pairs)
    ours, theirs = scale(log) * forth + out, scale(log) * back + out
    return (F.cross_entropy(ours, own) + F.cross_entropy(theirs.T, own)) / 2


def contrast(a, b, log, same=None):
    cosines = unit(a) @ unit(b).T
    return both_ways(cosines, cosines, log, same)


def late_interaction(v, t, mask):
    cosines = torch.einsum("ine,jme->ijnm", unit(v), unit(t))
    any_token, counts = (mask.sum(1) > 0).double(), mask.sum(1).clamp(min=1)
    i2t = (cosines - 1e4 * (1 - mask)[:, None]).max(3).values.mean(2) * any_token
    t2i = (cosines.max(2).values * mask).sum(2) / counts
    return i2t, t2i


def token_loss(v, t, log, mask, same=None):
    return both_ways(*late_interaction(v, t, mask), log, same)


def toward(e, prototypes, log, columns):
    return F.cross_entropy(scale(log) * unit(e) @ prototypes, columns)


def case(term, inputs, **fixed):
    """Value and gradients of a term; `inputs` in the order of its arguments."""
    leaves = [x.clone().requires_grad_() for x in inputs.values()]
    value = term(*leaves, **fixed)
    value.sum().backward()
    shown = {name: tensor(x.double()) for name, x in fixed.items() if x is not None}
    gradients = {name: tensor(leaf.grad) for name, leaf in zip(inputs, leaves)}
    return {"inputs": {name: tensor(x) for name, x in inputs.items()}, "fixed": shown, "value": tensor(value), "gradients": gradients}


def main():
    ids = torch.tensor([[1, 4, 4, 10, 2], [7, 0, 0, 0, 0], [0, 0, 0, 0, 0], [3, 9, 5, 0, 0]])
    log = rounded(torch.tensor([math.log(1 / 0.07)]))
    same = torch.tensor([1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0], dtype=torch.bool).reshape(4, 4)
    mask = (torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])).double()
    zero = draw(4, 6)
    zero[1] = 0
    v, t = draw(4, 7, 6), draw(4, 5, 6)
    weights = draw(2, 4, 4)
    late = {"v": v, "t": t}
    pair = {"a": draw(4, 6), "b": draw(4, 6), "log": log}
    prototypes = rounded(F.normalize(torch.randn(6, 3), dim=0))
    above = {"a": draw(3, 6), "b": draw(3, 6), "log": rounded(torch.tensor([5.0]))}
    drawn = {"e": draw(5, 6), "prototypes": prototypes, "log": log}
    interaction = lambda v, t, mask, weights: (torch.stack(late_interaction(v, t, mask)) * weights).sum()  # noqa: E731
    known = {
        "encoders": {
            "bag": encoder("bag", 6, 0, 0, ids),
            "transformer": encoder("transformer", 8, 2, 2, ids),
        },
        "unit": case(lambda x, weights: (unit(x) * weights).sum(), {"x": zero}, weights=draw(4, 6)),
        "contrast": case(contrast, pair),
        "contrast_same": case(contrast, pair, same=same),
        "contrast_one": case(contrast, {"a": draw(1, 6), "b": draw(1, 6), "log": log}),
        "contrast_above": case(contrast, above),
        "late": case(interaction, late, mask=mask, weights=weights),
        "token": case(token_loss, late | {"log": log}, mask=mask),
        "token_same": case(token_loss, late | {"log": log}, mask=mask, same=same),
        "toward": case(toward, drawn, columns=torch.tensor([2, 0, 0, 1, 2])),
    }
    known["late"]["i2t"], known["late"]["t2i"] = map(tensor, late_interaction(v, t, mask))
    print(json.dumps(known))


if __name__ == "__main__":
    main()
