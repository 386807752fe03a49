"""Values, gradients and AdamW steps of PyTorch for client/src/nn: prints answers.json.

    OMP_NUM_THREADS=1 python client/known_answers/nn/make.py > client/known_answers/nn/answers.json
"""

import json

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(20)


def flat(tensor):
    # Nine digits tell every float32 from its neighbours.
    return [float(f"{x:.9g}") for x in tensor.detach().contiguous().flatten().tolist()]


def answer(name, inputs, f):
    """Inputs, value, fixed weights w, and gradients of sum(value * w)."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    value = f(*leaves)
    weights = torch.randn(value.shape)
    (value * weights).sum().backward()
    return dict(
        name=name,
        shapes=[list(x.shape) for x in inputs],
        inputs=[flat(x) for x in inputs],
        weights=flat(weights),
        value=flat(value),
        gradients=[flat(x.grad) for x in leaves],
    )


def attention(heads, keys, causal):
    def of(x, bias):
        b, t, w = x.shape
        d = w // 3
        q, k, v = (x + bias).view(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        mask = torch.zeros(b, 1, t, t)
        if keys is not None:
            mask = mask + keys.view(b, 1, 1, t)
        if causal:
            mask = mask + torch.full((t, t), -1e30).triu(1)
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(b, t, d)

    return of


def operations():
    x, v, u = torch.randn(2, 5, 9) * 2, torch.randn(9), torch.randn(9)
    logits, targets = torch.randn(7, 11) * 3, [i * 3 % 11 for i in range(7)]
    heads, bias, keys = torch.randn(2, 6, 30), torch.randn(30), torch.randn(2, 6)
    square = torch.randn(2, 6, 6)
    far = torch.tensor([-60.0, -12.0, -5.5, -3.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 3.0, 5.5, 12.0, 60.0]).view(1, 1, 13)
    yield answer("gelu", [x], F.gelu)
    yield answer("gelu far", [far], F.gelu)
    yield answer("gelu biased", [x, v], lambda x, v: F.gelu(x + v))
    yield answer("residual", [x, x * 0.5 + 1, v], lambda x, y, v: x + y + v)
    yield answer("norm", [x, v, u], lambda x, v, u: F.layer_norm(x, (9,), v, u))
    yield answer("softmax", [x], lambda x: F.softmax(x * 0.7, -1))
    yield answer("causal softmax", [square], lambda x: F.softmax(x * 0.7 + torch.full((6, 6), -1e30).triu(1), -1))
    yield dict(answer("loss", [logits], lambda x: F.cross_entropy(x, torch.tensor(targets)).view(1)), targets=targets)
    yield answer("attention", [heads, bias], attention(2, None, False))
    yield answer("attention causal", [heads, bias], attention(2, None, True))
    yield dict(answer("attention keyed", [heads, bias], attention(2, keys, False)), keys=flat(keys))


def adamw():
    """Three steps of torch.optim.AdamW with given gradients."""
    matrix, vector = torch.nn.Parameter(torch.randn(3, 5)), torch.nn.Parameter(torch.randn(5))
    start = [flat(matrix), flat(vector)]
    groups = [dict(params=[matrix], weight_decay=0.3), dict(params=[vector], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-8)
    steps = []
    for rate in (0.01, 0.02, 0.005):
        for group in optimizer.param_groups:
            group["lr"] = rate
        matrix.grad, vector.grad = torch.randn(3, 5), torch.randn(5) * 1e-3
        optimizer.step()
        moments = [[flat(optimizer.state[p][k]) for k in ("exp_avg", "exp_avg_sq")] for p in (matrix, vector)]
        steps.append(dict(rate=rate, gradients=[flat(matrix.grad), flat(vector.grad)], values=[flat(matrix), flat(vector)], moments=moments))
    return dict(start=start, beta2=0.98, weight_decay=0.3, steps=steps)


print(json.dumps(dict(torch=torch.__version__, operations=list(operations()), adamw=adamw())))
