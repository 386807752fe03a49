"""Small files in every type that the data readers read, and their values as NumPy gives them.

    python3 -m venv V && V/bin/pip install numpy safetensors && V/bin/python make.py
"""
import json, os
import numpy as np
from numpy.lib import format as npy
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import load_file

here = os.path.dirname(os.path.abspath(__file__))
expected = {"npy": {}, "safetensors": {}}


def values(kind):
    """Two samples of [3, 2], with the ends of the type's range."""
    d = np.dtype(kind)
    if d.kind == "b":
        a = [0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0]
    elif d.kind in "iu":
        i = np.iinfo(d)
        a = [i.min, i.max, 0, 1, 2, 3, i.max // 2, 5, 6, 7, 100, 11]
    else:
        f = np.finfo(d)
        a = [f.max, f.min, f.tiny, f.smallest_subnormal, 0.0, -0.0, 1.5, -2.25, 1 / 3, 1000.0, 0.1, -7.0]
    return np.array(a, d).reshape(2, 3, 2)


for name, kind, version in [
    ("b1", "|b1", (1, 0)), ("u1", "|u1", (1, 0)), ("i1", "|i1", (1, 0)), ("u2", "<u2", (1, 0)), ("i2_big", ">i2", (2, 0)),
    ("u4", "<u4", (1, 0)), ("i4", "<i4", (3, 0)), ("u8", "<u8", (1, 0)), ("i8_big", ">i8", (1, 0)),
    ("f2", "<f2", (1, 0)), ("f4", "<f4", (2, 0)), ("f4_big", ">f4", (1, 0)), ("f8", "<f8", (1, 0)),
]:
    a = values(kind)
    if kind == "<f8":
        a = np.array([1e-3, 2.5, -1e30, 0.1, 3.0, 4.0]).reshape(2, 3)
    with open(os.path.join(here, name + ".npy"), "wb") as f:
        npy.write_array(f, a, version=version)
    expected["npy"][name] = a.reshape(2, -1).astype(np.float32).astype(float).tolist()

for name, a in {
    "column": np.array([3, 1, 2], np.int64), "column_f8": np.array([[3.0], [1.0], [2.0]]),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "text": np.array(["a", "b"]),
    "structured": np.zeros(2, [("x", "<f4"), ("y", "<f4")]), "scalar": np.array(1.0), "empty": np.zeros((0, 3)),
}.items():
    np.save(os.path.join(here, name + ".npy"), a)

tensors, alive = {}, []


def add(name, dtype, a):
    alive.append(a)
    tensors[name] = TensorSpec(dtype=dtype, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)


for name, kind, dtype in [
    ("bool", "|b1", "bool"), ("u8", "|u1", "uint8"), ("i8", "|i1", "int8"), ("u16", "<u2", "uint16"), ("i16", "<i2", "int16"),
    ("u32", "<u4", "uint32"), ("i32", "<i4", "int32"), ("u64", "<u8", "uint64"), ("i64", "<i8", "int64"),
    ("f16", "<f2", "float16"), ("f32", "<f4", "float32"),
]:
    a = values(kind)
    add(name, dtype, a)
    expected["safetensors"][name] = a.reshape(2, -1).astype(np.float32).astype(float).tolist()
a = values("<f4")
bits = (a.view(np.uint32) >> 16).astype(np.uint16)
add("bf16", "bfloat16", bits)
expected["safetensors"]["bf16"] = (bits.astype(np.uint32) << 16).view(np.float32).reshape(2, -1).astype(float).tolist()
a = np.array([1e-3, 2.5, -1e30, 0.1, 3.0, 4.0]).reshape(2, 3)
add("f64", "float64", a)
expected["safetensors"]["f64"] = a.astype(np.float32).astype(float).tolist()
serialize_file(tensors, os.path.join(here, "types.safetensors"))

image = load_file(os.path.join(here, "../../../deploy/data/digits/digits.safetensors"))["image"].reshape(-1, 8, 8).astype(int)
for name, half in {"left": image[:, :, :4], "right": image[:, :, 4:]}.items():
    flat = half.reshape(len(half), -1)
    expected["digits_" + name] = {"sums": flat.sum(0).tolist(), "last_row": flat[-1].tolist()}
with open(os.path.join(here, "expected.json"), "w") as f:
    json.dump(expected, f)
    f.write("\n")
