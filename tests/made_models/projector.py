"""Projectors: tiny vision encoders of random weights, whose embeddings fit the made models."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from made_models.writer import EMBEDDING

IMAGE, PATCH, WIDTH, HEADS, LAYERS = 32, 8, 32, 2, 2
PATCHES = (IMAGE // PATCH) ** 2


def projector(
    path: Path, *, kind: str = "janus_pro", seed: int = 0, embedding: int = EMBEDDING
) -> Path:
    """An mmproj file.

    `janus_pro`: an image is 16 causal tokens. `gemma3`: 4, that see each other. `qwen2vl_merger` and
    `qwen3vl_merger`: a causal token for each 8 x 8 pixels; the latter's embeddings have a second
    half, from the encoder's first layer, for a layer of the model ("deepstack").
    """
    patch = PATCH // 2 if kind.startswith("qwen") else PATCH
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    for name, value in {
        "image_size": IMAGE,
        "patch_size": patch,
        "embedding_length": WIDTH,
        "feed_forward_length": 2 * WIDTH,
        "block_count": LAYERS,
        "projection_dim": embedding,
        "attention.head_count": HEADS,
        "projector.scale_factor": 2,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def tensor(name: str, *shape: int, scale: float | None = None) -> None:
        size = scale if scale is not None else float(np.prod(shape[1:])) ** -0.5
        writer.add_tensor(name, random.normal(0, size, shape).astype(np.float32))

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensor(f"{name}.weight", outputs, inputs)
        tensor(f"{name}.bias", outputs, scale=0.1)

    def norm(name: str, size: int = WIDTH) -> None:
        writer.add_tensor(f"{name}.weight", random.normal(1, 0.1, size).astype(np.float32))
        tensor(f"{name}.bias", size, scale=0.1)

    tensor("v.patch_embd.weight", WIDTH, 3, patch, patch)
    if kind.startswith("qwen"):
        tensor("v.patch_embd.weight.1", WIDTH, 3, patch, patch)
    if kind != "qwen2vl_merger":
        tensor("v.patch_embd.bias", WIDTH, scale=0.1)
        tensor("v.position_embd.weight", PATCHES, WIDTH, scale=0.1)
    norm("v.post_ln")
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        norm(f"{block}.ln1")
        norm(f"{block}.ln2")
        if kind == "qwen3vl_merger":
            linear(f"{block}.attn_qkv", 3 * WIDTH, WIDTH)
        else:
            for name in ("attn_q", "attn_k", "attn_v"):
                linear(f"{block}.{name}", WIDTH, WIDTH)
        linear(f"{block}.attn_out", WIDTH, WIDTH)
        linear(f"{block}.ffn_up", 2 * WIDTH, WIDTH)
        linear(f"{block}.ffn_down", WIDTH, 2 * WIDTH)
    if kind == "qwen3vl_merger":
        norm("v.deepstack.0.norm", 4 * WIDTH)
        linear("v.deepstack.0.fc1", 4 * WIDTH, 4 * WIDTH)
        linear("v.deepstack.0.fc2", embedding, 4 * WIDTH)
    if kind == "gemma3":
        writer.add_tensor("mm.soft_emb_norm.weight", np.ones(WIDTH, np.float32))
        tensor("mm.input_projection.weight", WIDTH, embedding)
    elif kind.startswith("qwen"):
        linear("mm.0", 4 * WIDTH, 4 * WIDTH)
        linear("mm.2", embedding, 4 * WIDTH)
    else:
        linear("mm.0", 2 * WIDTH, WIDTH)
        linear("mm.1", embedding, 2 * WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
