"""Makes local_run.json: one whole local run of the classify task, in PyTorch.

    pip install torch && python local_run.py > local_run.json

Data, initial weights, prototypes and the order of samples are drawn here and written out with the weights after training:
Adam, zero fill, prototype contrast per modality and fused, the last smaller batch kept. Everything is float64 here, so
that what differs is the rounding of the float32 side. Weights are given as nn.Linear keeps them, [out, in].
"""

import json

import torch
import torch.nn.functional as F

torch.manual_seed(11)
torch.set_default_dtype(torch.float64)
DIMS, HIDDEN, WIDTH, FUSED, CLASSES = {"a": 5, "b": 3}, 6, 4, 5, 3
N, BATCH, EPOCHS, LR, TAU, CONTRAST, CONTRAST_FUSED = 22, 8, 3, 0.01, 0.1, 0.3, 0.2


def rounded(tensor):
    """What both sides can hold exactly."""
    return tensor.to(torch.float32).to(torch.float64)


def linear(outputs, inputs):
    bound = inputs**-0.5
    weight = rounded((torch.rand(outputs, inputs) * 2 - 1) * bound)
    return {"weight": weight, "bias": rounded((torch.rand(outputs) * 2 - 1) * bound)}


params = {}
for name, dim in DIMS.items():
    params[f"encoder.{name}/l1"], params[f"encoder.{name}/l2"] = linear(HIDDEN, dim), linear(WIDTH, HIDDEN)
params["fusion"], params["head"] = linear(FUSED, WIDTH * len(DIMS)), linear(CLASSES, FUSED)
flat = {}
for layer, tensors in params.items():
    for leaf, tensor in tensors.items():
        name = f"{layer}.{leaf}" if "/" in layer else f"{layer}/{leaf}"
        flat[f"param/{name}"] = tensors[leaf] = tensor.requires_grad_()
start = {name: tensor.detach().clone() for name, tensor in flat.items()}

labels = torch.randint(0, CLASSES, (N,))
inputs = {name: rounded(torch.randn(N, dim)) for name, dim in DIMS.items()}
present = torch.randint(1, 4, (N,))  # bit 0: a, bit 1: b
has = {name: (present >> m) & 1 == 1 for m, name in enumerate(DIMS)}
for name in DIMS:
    inputs[name][~has[name]] = 0
# class 1 has no prototype of b, class 2 none of the fused representation
proto = {"a": torch.randn(CLASSES, WIDTH), "b": torch.randn(CLASSES, WIDTH), "fused": torch.randn(CLASSES, FUSED)}
valid = {"a": [0, 1, 2], "b": [0, 2], "fused": [0, 1]}
orders = [torch.randperm(N).tolist() for _ in range(EPOCHS)]


def apply(layer, x):
    return F.linear(x, params[layer]["weight"], params[layer]["bias"])


def contrast(representations, classes, name):
    keep = torch.tensor([int(c) in valid[name] for c in classes], dtype=torch.bool)
    if not keep.any():
        return torch.zeros(())
    cosines = F.normalize(representations[keep], dim=1) @ F.normalize(proto[name][valid[name]], dim=1).T
    return F.cross_entropy(cosines / TAU, torch.tensor([valid[name].index(int(c)) for c in classes[keep]]))


def loss_of(rows):
    y, total, filled = labels[rows], torch.zeros(()), []
    for name in DIMS:
        full = torch.zeros(len(rows), WIDTH)
        mine = has[name][rows]
        if mine.any():
            encoded = apply(f"encoder.{name}/l2", F.relu(apply(f"encoder.{name}/l1", inputs[name][rows][mine])))
            encoded = F.layer_norm(encoded, (WIDTH,), eps=1e-5)
            total = total + CONTRAST * contrast(encoded, y[mine], name)
            full = full.index_put((mine.nonzero().squeeze(1),), encoded)
        filled.append(full)
    fused = torch.tanh(apply("fusion", torch.cat(filled, dim=1)))
    total = total + CONTRAST_FUSED * contrast(fused, y, "fused")
    return F.cross_entropy(apply("head", fused), y) + total


optimizer = torch.optim.Adam(flat.values(), lr=LR)
total_loss = 0.0
for order in orders:
    for at in range(0, N, BATCH):
        rows = torch.tensor(order[at : at + BATCH])
        loss = loss_of(rows)
        total_loss += loss.item() * len(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def numbers(tensors, digits):
    return {name: [round(v, digits) for v in tensor.detach().flatten().tolist()] for name, tensor in tensors.items()}


print(json.dumps({
    "classes": CLASSES, "dims": DIMS, "hidden": HIDDEN, "width": WIDTH, "fused": FUSED,
    "batch": BATCH, "lr": LR, "tau": TAU, "contrast": CONTRAST, "contrast_fused": CONTRAST_FUSED,
    "labels": labels.tolist(), "present": present.tolist(), "inputs": numbers(inputs, 9), "orders": orders,
    "prototypes": numbers(proto, 9), "valid": valid,
    "start": numbers(start, 9), "end": numbers(flat, 9), "loss": total_loss / (N * EPOCHS),
}))
