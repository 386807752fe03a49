"""Loads an exported model of a run of kind "mlip" into the PyTorch twin and compares what both make of the same samples.

    python tests/pytorch/check_export.py MODEL EMBEDDINGS [CONFIG]

MODEL is what `tessera model export` wrote. EMBEDDINGS is a safetensors file with `pixels` (of 0 to 255, [n, 3 S S]),
`tokens` (ids, 0 is padding, [n, M]) and what the model made of them: `image`, `text` and, if it has them, `frequency`
features, unit rows [n, E]. CONFIG is a JSON file with `[model]` of the run, everything filled in; without it that JSON is
taken from the entry `model` of the metadata of EMBEDDINGS. Exits with 1 if a name or shape does not fit, or if anything
differs by more than 1e-4.
"""

import sys

from safetensors import safe_open

from twin import load

TOLERANCE = 1e-4


def main(model, embeddings, config=None):
    with safe_open(embeddings, "pt") as file:
        known = {name: file.get_tensor(name).float() for name in file.keys()}
        text = open(config, encoding="utf-8").read() if config else (file.metadata() or {}).get("model")
    if text is None:
        return f"{embeddings} has no entry `model` in its metadata: give CONFIG"
    try:
        twin = load(model, text)
    except RuntimeError as error:
        return f"{model} does not fit the twin: {error}"
    found = dict(zip(("image", "frequency", "text"), twin.embed(known["pixels"], known["tokens"])))
    faults = []
    for name, features in found.items():
        if (features is None) != (name not in known):
            faults.append(f"{name}: only one of both has it")
        elif features is not None and features.shape != known[name].shape:
            faults.append(f"{name}: {list(features.shape)} here, {list(known[name].shape)} there")
        elif features is not None:
            off = (features - known[name]).abs().max().item()
            print(f"{name}: {list(features.shape)}, differ by at most {off:.1e}")
            if not off <= TOLERANCE:
                faults.append(f"{name}: differs by {off:.1e}, more than {TOLERANCE:.0e}")
    return "\n".join(faults)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    why = main(*sys.argv[1:])
    if why:
        print(why, file=sys.stderr)
        sys.exit(1)
