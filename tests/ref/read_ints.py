#!/usr/bin/python3
"""An independent reader of folders with integer weights: compressed-tensors' "int-quantized" and "pack-quantized", and GPTQ's layout.

Written from the formats (compressed-tensors' quantization_config and its compressors' tensors; AutoGPTQ's QuantLinear), with json, struct and
numpy alone, before pdq's writer was. It checks names, dtypes, shapes and quantization_config, decodes every matrix to f32 and compares it,
bit by bit, with a folder of the same model in F32.

    read_ints.py FOLDER [F32_FOLDER]

One line of JSON: method, format, matrices, tensors compared, scale of the static inputs of each matrix.
"""
import json
import os
import re
import struct
import sys

import numpy as np

WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I32": 4, "I64": 8}
LINEAR = re.compile(r"^model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)$")


def fail(message):
    raise SystemExit("read_ints.py: " + message)


def read(folder):
    """{name: (dtype, array)}"""
    path = os.path.join(folder, "model.safetensors")
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body, out = data[8 + length:], {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype, shape = entry["dtype"], entry["shape"]
        if end - begin != WIDTH[dtype] * int(np.prod(shape)):
            fail(f"{name}: {end - begin} bytes for {dtype} {shape}")
        raw = body[begin:end]
        if dtype == "BF16":
            array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2", "I8": "i1", "I32": "<i4", "I64": "<i8"}[dtype])
        out[name] = (dtype, array.reshape(shape))
    return out


def want(tensors, used, name, dtypes, shape):
    if name not in tensors:
        fail(f"{name} is missing")
    dtype, array = tensors[name]
    if dtype not in dtypes or list(array.shape) != list(shape):
        fail(f"{name}: {dtype} {list(array.shape)}, expected {'|'.join(dtypes)} {list(shape)}")
    used.add(name)
    return array


def nibbles(words, bits, axis):
    """Fields of each 32-bit word, lowest first, along an axis that grows by 32 / bits."""
    words = np.moveaxis(words.view(np.uint32), axis, -1)
    fields = np.stack([(words >> np.uint32(bits * i)) & np.uint32((1 << bits) - 1) for i in range(32 // bits)], axis=-1)
    return np.moveaxis(fields.reshape(*words.shape[:-1], -1), -1, axis).astype(np.int64)


def compressed(tensors, used, q, module, rows, columns):
    """compressed-tensors: value = (code - zero) * scale."""
    if q["quant_method"] != "compressed-tensors" or q["quantization_status"] != "compressed" or q["kv_cache_scheme"] is not None:
        fail(f"quantization_config: {q}")
    group = q["config_groups"]["group_0"]
    if group["targets"] != ["Linear"] or group["output_activations"] is not None:
        fail(f"group_0: {group}")
    w = group["weights"]
    if w["type"] != "int" or w["dynamic"] or w["strategy"] not in ("channel", "group"):
        fail(f"weights: {w}")
    bits, symmetric = w["num_bits"], w["symmetric"]
    size = w["group_size"] if w["strategy"] == "group" else columns
    floats = ("BF16", "F16", "F32")
    scale = want(tensors, used, module + ".weight_scale", floats, [rows, columns // size]).astype(np.float32)
    zero = 0
    if q["format"] == "int-quantized":
        code = want(tensors, used, module + ".weight", ["I8"], [rows, columns]).astype(np.int64)
    elif q["format"] == "pack-quantized":
        per_word = 32 // bits
        packed = want(tensors, used, module + ".weight_packed", ["I32"], [rows, -(-columns // per_word)])
        shape = want(tensors, used, module + ".weight_shape", ["I64"], [2])
        if list(shape) != [rows, columns]:
            fail(f"{module}.weight_shape: {shape}")
        code = nibbles(packed, bits, 1)[:, :columns] - (1 << bits - 1)
        if not symmetric:
            words = want(tensors, used, module + ".weight_zero_point", ["I32"], [-(-rows // per_word), columns // size])
            zero = nibbles(words, bits, 0)[:rows] - (1 << bits - 1)
            zero = np.repeat(zero, size, axis=1)
    else:
        fail(f"format {q['format']}")
    inputs = group["input_activations"]
    if inputs:
        if inputs["num_bits"] != 8 or inputs["type"] != "int" or not inputs["symmetric"]:
            fail(f"input_activations: {inputs}")
        if (inputs["strategy"], inputs["dynamic"]) == ("tensor", False):
            scales[module] = float(want(tensors, used, module + ".input_scale", floats, [1])[0])
        elif (inputs["strategy"], inputs["dynamic"]) != ("token", True):
            fail(f"input_activations: {inputs}")
    return (code - zero).astype(np.float32) * np.repeat(scale, size, axis=1)


def gptq(tensors, used, q, module, rows, columns):
    """GPTQ, version 1: zeros are stored less one; fields run down the inputs, scales and zeros along the outputs."""
    if q["quant_method"] != "gptq" or q["checkpoint_format"] != "gptq":
        fail(f"quantization_config: {q}")
    bits, size = q["bits"], q["group_size"] if q["group_size"] > 0 else columns
    groups, per_word = -(-columns // size), 32 // bits
    code = nibbles(want(tensors, used, module + ".qweight", ["I32"], [columns // per_word, rows]), bits, 0)
    zero = nibbles(want(tensors, used, module + ".qzeros", ["I32"], [groups, rows // per_word]), bits, 1) + 1
    scale = want(tensors, used, module + ".scales", ["F16"], [groups, rows]).astype(np.float32)
    index = want(tensors, used, module + ".g_idx", ["I32"], [columns])
    if q["sym"] and not (zero == 1 << bits - 1).all():
        fail(f"{module}: sym, and zeros of {np.unique(zero)}")
    if not q["desc_act"] and not (index == np.arange(columns) // size).all():
        fail(f"{module}: no desc_act, and columns out of order")
    if not (np.bincount(index, minlength=groups) == size).all():
        fail(f"{module}: groups of different sizes")
    return ((code - zero[index]).astype(np.float32) * scale[index]).T


def shapes(config):
    hidden, width = config["hidden_size"], config["head_dim"]
    heads, groups, ff = config["num_attention_heads"] * width, config["num_key_value_heads"] * width, config["intermediate_size"]
    return {"self_attn.q_proj": (heads, hidden), "self_attn.k_proj": (groups, hidden), "self_attn.v_proj": (groups, hidden),
            "self_attn.o_proj": (hidden, heads), "mlp.gate_proj": (ff, hidden), "mlp.up_proj": (ff, hidden), "mlp.down_proj": (hidden, ff)}


folder = sys.argv[1]
config = json.load(open(os.path.join(folder, "config.json")))
q = config["quantization_config"]
tensors, used, decoded, scales = read(folder), set(), {}, {}
decode = gptq if q["quant_method"] == "gptq" else compressed
if q["quant_method"] != "gptq" and q["ignore"] != ["lm_head"]:
    fail(f"ignore: {q['ignore']}")
if {"gptq": "float16"}.get(q["quant_method"], "bfloat16") != config["torch_dtype"]:
    fail(f"torch_dtype {config['torch_dtype']}")
for layer in range(config["num_hidden_layers"]):
    for part, (rows, columns) in shapes(config).items():
        module = f"model.layers.{layer}.{part}"
        if not LINEAR.match(module):
            fail(module)
        decoded[module + ".weight"] = decode(tensors, used, q, module, rows, columns)
for name, (dtype, array) in tensors.items():
    if name not in used:
        if dtype != ("F16" if q["quant_method"] == "gptq" else "BF16"):
            fail(f"{name}: {dtype} is neither a known part of a matrix nor a float")
        decoded[name] = array.astype(np.float32)
compared = 0
if len(sys.argv) > 2:
    plain = read(sys.argv[2])
    if set(plain) != set(decoded):
        fail(f"other tensors: {sorted(set(plain) ^ set(decoded))[:6]}")
    for name, array in decoded.items():
        if plain[name][0] != "F32" or (plain[name][1] + np.float32(0) != array + np.float32(0)).any():
            fail(f"{name} differs: {np.abs(plain[name][1] - array).max()}")
        compared += 1
print(json.dumps({"method": q["quant_method"], "format": q.get("format", q.get("checkpoint_format")), "matrices": len(used), "compared": compared,
                  "scales": scales}))
