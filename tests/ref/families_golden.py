#!/usr/bin/python3
"""Writes tests/golden/ops/families.txt and tests/golden/model-{qwen3,gemma2,minicpm,granite,windows}/: what the Llama family's
relatives add to it, by PyTorch's autograd in float64, as make_golden.py does for the rest.

Windows are shorter than the sequences, soft caps low enough to bend, and multipliers far from 1.
"""
import math

import numpy
import torch
import torch.nn.functional as F

import make_golden
import read_hf

normal = make_golden.normal

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
         "intermediate_size": 20, "vocab_size": 29, "max_position_embeddings": 64, "hidden_act": "silu",
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}
MODELS = {
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True,
              "attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2,
              "rope_theta": 1000000.0},
    "gemma2": {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 4, "hidden_size": 12,
               "intermediate_size": 14, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
               "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
               "sliding_window": 4},
    "minicpm": {"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "num_hidden_layers": 3,
                "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 4},
    "granite": {"model_type": "granite", "architectures": ["GraniteForCausalLM"], "attention_bias": True,
                "tie_word_embeddings": False, "embedding_multiplier": 6.0, "residual_multiplier": 0.35,
                "attention_multiplier": 0.3, "logits_scaling": 2.5},
    # the first layer full, the second with a window, as Qwen counts them
    "windows": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": False,
                "attention_bias": True, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
}
make_golden.MODELS.update({name: ({**SHAPE, **keys}, "F32", 1) for name, keys in MODELS.items()})


def write_ops():
    ops = make_golden.Ops("families")
    x, w = normal(5, 12), normal(4)
    heads = read_hf.rms_norm(x.view(5, 3, 4), 1 + w, 1e-5).reshape(5, 12)
    ops.case("rmsnorm_heads", {"x": x, "w": w}, heads, eps=1e-5, shift=1.0)
    gate, up = normal(4, 10, scale=3.0), normal(4, 10)
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate ** 3))
    ops.case("geglu", {"gate": gate, "up": up}, 0.5 * gate * (1 + tanh) * up)
    x = normal(4, 10, scale=3.0)
    ops.case("softcap", {"x": x}, read_hf.soft_cap(x, 2.5), cap=2.5)
    x = normal(4, 10)
    ops.case("scale", {"x": x}, -1.75 * x, factor=-1.75)
    for case, T, cap, window in (("attention_window", 13, None, 5), ("attention_cap", 9, 1.5, None),
                                 ("attention_both", 67, 2.0, 40)):
        H, G, E, scale = 2, 1, 4, 0.7
        q, k, v = normal(T, H * E), normal(T, G * E), normal(T, G * E)
        heads = lambda t, n: t.view(T, n, E).transpose(0, 1).repeat_interleave(H // n, dim=0)
        distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
        hidden = (distance < 0) | (distance >= (window or T))
        scores = read_hf.soft_cap(heads(q, H) @ heads(k, G).transpose(1, 2) * scale, cap).masked_fill(hidden, -math.inf)
        y = (torch.softmax(scores, dim=-1) @ heads(v, G)).transpose(0, 1).reshape(T, H * E)
        ops.case(case, {"q": q, "k": k, "v": v}, y, B=1, T=T, E=E, scale=scale, cap=cap or 0.0, window=window or 0)
    ops.file.close()


def main():
    make_golden.random = numpy.random.RandomState(20261129)
    write_ops()
    models = {name: make_golden.make_model(name) for name in MODELS}
    for name, model in models.items():
        make_golden.write_model(name, model)
    make_golden.write_model("gemma2", models["gemma2"], teacher=models["minicpm"])
    make_golden.write_model("minicpm", models["minicpm"], teacher=models["gemma2"])


if __name__ == "__main__":
    main()
