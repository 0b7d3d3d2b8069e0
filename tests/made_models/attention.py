"""Models whose memory is attention: one cell per token, plain, windowed or compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from made_models.writer import EMBEDDING, FEED_FORWARD, HEADS, VOCABULARY, Writer

HEAD = 32
"""Values of an attention head; the rows of a q8_0 cache are made of blocks of 32."""


def llama(
    path: Path, *, layers: int = 2, seed: int = 0, pooling: int | None = None, context: int = 4096
) -> Path:
    """Plain attention: all layers see the whole context. `pooling` (1 mean, 3 last) embeds with it."""
    with Writer(path, "llama", layers=layers, seed=seed, context=context) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * layers)
        writer.integers(vocab_size=VOCABULARY, rope__dimension_count=HEAD)
        if pooling is not None:
            writer.integers(pooling_type=pooling)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            writer.norm(f"blk.{layer}.attn_norm")
            projections(writer, layer)
            feed_forward(writer, layer)
    return path


def experts(path: Path, *, layers: int = 2, count: int = 4, seed: int = 0) -> Path:
    """A mixture of `count` experts, of which two compute each token (mixtral)."""
    with Writer(path, "llama", layers=layers, seed=seed) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * layers)
        writer.integers(vocab_size=VOCABULARY, rope__dimension_count=HEAD)
        writer.integers(expert_count=count, expert_used_count=2)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            block = f"blk.{layer}"
            writer.norm(f"{block}.attn_norm")
            projections(writer, layer)
            writer.norm(f"{block}.ffn_norm")
            writer.matrix(f"{block}.ffn_gate_inp", count, EMBEDDING)
            writer.matrix(f"{block}.ffn_gate_exps", count, FEED_FORWARD, EMBEDDING)
            writer.matrix(f"{block}.ffn_up_exps", count, FEED_FORWARD, EMBEDDING)
            writer.matrix(f"{block}.ffn_down_exps", count, EMBEDDING, FEED_FORWARD)
    return path


def gemma3(
    path: Path,
    *,
    layers: int = 4,
    window: int = 64,
    pattern: int = 2,
    seed: int = 0,
    context: int = 4096,
) -> Path:
    """Sliding window: of `pattern` layers, all but the last see only the last `window` tokens."""
    with Writer(path, "gemma3", layers=layers, seed=seed, context=context) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * layers)
        writer.integers(attention__sliding_window=window, attention__sliding_window_pattern=pattern)
        writer.token_embedding(scale=0.02)  # gemma multiplies it by the root of its length.
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            block = f"blk.{layer}"
            writer.norm(f"{block}.attn_norm")
            projections(writer, layer)
            writer.norm(f"{block}.attn_q_norm", HEAD)
            writer.norm(f"{block}.attn_k_norm", HEAD)
            writer.norm(f"{block}.post_attention_norm")
            feed_forward(writer, layer)
            writer.norm(f"{block}.post_ffw_norm")
    return path


def qwen2vl(path: Path, *, layers: int = 2, seed: int = 0, context: int = 4096) -> Path:
    """Plain attention whose positions have a time, a row and a column (M-RoPE)."""
    with Writer(path, "qwen2vl", layers=layers, seed=seed, context=context) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * layers)
        writer.integers(rope__dimension_count=HEAD, rope__dimension_sections=[4, 6, 6, 0])
        # Places far apart then differ in all of the few dimensions of these heads.
        writer.floats(rope__freq_base=100.0)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            writer.norm(f"blk.{layer}.attn_norm")
            projections(writer, layer)
            feed_forward(writer, layer)
    return path


def qwen3vl(path: Path, *, layers: int = 2, seed: int = 0, context: int = 4096) -> Path:
    """As `qwen2vl`, with the dimensions in turns, and images that reach into the first layer, too."""
    with Writer(path, "qwen3vl", layers=layers, seed=seed, context=context) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * layers)
        writer.integers(rope__dimension_count=HEAD, rope__dimension_sections=[6, 5, 5, 0])
        writer.integers(n_deepstack_layers=1)
        writer.floats(rope__freq_base=100.0)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            block = f"blk.{layer}"
            writer.norm(f"{block}.attn_norm")
            projections(writer, layer)
            writer.norm(f"{block}.attn_q_norm", HEAD)
            writer.norm(f"{block}.attn_k_norm", HEAD)
            feed_forward(writer, layer)
    return path


def mla(path: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """Multi-head latent attention (deepseek2): a cell holds one compressed row, keys only."""
    rank, rope, nope, value = 32, 32, 16, 16
    with Writer(path, "deepseek2", layers=layers, seed=seed) as writer:
        writer.bytes_vocabulary()
        writer.integers(
            vocab_size=VOCABULARY,
            attention__head_count=HEADS,
            attention__head_count_kv=1,
            attention__q_lora_rank=rank,
            attention__kv_lora_rank=rank,
            attention__key_length=rank + rope,
            attention__value_length=rank,
            attention__key_length_mla=nope + rope,
            attention__value_length_mla=value,
            rope__dimension_count=rope,
            leading_dense_block_count=layers,
            expert_feed_forward_length=FEED_FORWARD,
            expert_shared_count=1,
        )
        writer.floats(attention__layer_norm_rms_epsilon=1e-6)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            block = f"blk.{layer}"
            writer.norm(f"{block}.attn_norm")
            writer.matrix(f"{block}.attn_q_a", rank, EMBEDDING)
            writer.norm(f"{block}.attn_q_a_norm", rank)
            writer.matrix(f"{block}.attn_q_b", HEADS * (nope + rope), rank)
            writer.matrix(f"{block}.attn_kv_a_mqa", rank + rope, EMBEDDING)
            writer.norm(f"{block}.attn_kv_a_norm", rank)
            writer.matrix(f"{block}.attn_k_b", HEADS, rank, nope)
            writer.matrix(f"{block}.attn_v_b", HEADS, value, rank)
            writer.matrix(f"{block}.attn_output", EMBEDDING, HEADS * value)
            feed_forward(writer, layer)
    return path


def next_tokens(
    path: Path, *, layers: int = 2, seed: int = 0, agreeing: bool = False, layer: bool = True
) -> Path:
    """Plain attention and a layer that predicts the token after the next one (glm4moe).

    `agreeing`: the layers add nothing, so that each token follows from the one before it, and the
    predicting layer foresees just what the model will say. Without `layer` it is announced, and
    missing.
    """
    experts, blocks = 2, layers + 1
    with Writer(path, "glm4moe", layers=blocks, seed=seed) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * blocks)
        writer.integers(
            vocab_size=VOCABULARY,
            rope__dimension_count=HEAD,
            nextn_predict_layers=1,
            leading_dense_block_count=layers,
            expert_count=experts,
            expert_used_count=1,
            expert_shared_count=1,
            expert_feed_forward_length=[FEED_FORWARD] * blocks,
        )
        writer.token_embedding(scale=1.0 if agreeing else 0.1)
        writer.array("output_norm.weight", np.ones(EMBEDDING))
        writer.output()
        for number in range(blocks if layer else layers):
            block = f"blk.{number}"
            writer.norm(f"{block}.attn_norm")
            writer.norm(f"{block}.post_attention_norm")
            for name in ("q", "k", "v"):
                writer.matrix(f"{block}.attn_{name}", HEADS * HEAD, EMBEDDING)
            _adding(writer, f"{block}.attn_output", EMBEDDING, HEADS * HEAD, silent=agreeing)
            if number < layers:
                writer.matrix(f"{block}.ffn_gate", FEED_FORWARD, EMBEDDING)
                writer.matrix(f"{block}.ffn_up", FEED_FORWARD, EMBEDDING)
                _adding(writer, f"{block}.ffn_down", EMBEDDING, FEED_FORWARD, silent=agreeing)
            else:
                _foresight(writer, block, experts, silent=agreeing)
    return path


def _foresight(writer: Writer, block: str, experts: int, *, silent: bool) -> None:
    """What the predicting layer has besides attention: experts, and the way into it."""
    writer.matrix(f"{block}.ffn_gate_inp", experts, EMBEDDING)
    writer.bias(f"{block}.exp_probs_b", experts)
    for kind, shape in (("exps", (experts,)), ("shexp", ())):
        writer.matrix(f"{block}.ffn_gate_{kind}", *shape, FEED_FORWARD, EMBEDDING)
        writer.matrix(f"{block}.ffn_up_{kind}", *shape, FEED_FORWARD, EMBEDDING)
        _adding(writer, f"{block}.ffn_down_{kind}", *shape, EMBEDDING, FEED_FORWARD, silent=silent)
    writer.array(f"{block}.nextn.enorm.weight", np.ones(EMBEDDING))
    writer.array(f"{block}.nextn.hnorm.weight", np.ones(EMBEDDING))
    if silent:  # It takes the token, and nothing of what the model thought at it.
        way_in = np.concatenate([np.eye(EMBEDDING), np.zeros((EMBEDDING, EMBEDDING))], axis=1)
        writer.array(f"{block}.nextn.eh_proj.weight", way_in)
    else:
        writer.matrix(f"{block}.nextn.eh_proj", EMBEDDING, 2 * EMBEDDING)


def _adding(writer: Writer, name: str, *shape: int, silent: bool) -> None:
    """The last weights of a branch; zeros if it is to add nothing."""
    if silent:
        writer.array(f"{name}.weight", np.zeros(shape))
    else:
        writer.matrix(name, *shape)


def attention_heads(writer: Writer, kv_heads: list[int]) -> None:
    """Hyperparameters of attention; `kv_heads` by layer, 0 where a layer has none."""
    same = len(set(kv_heads)) == 1
    writer.integers(
        attention__head_count=HEADS,
        attention__head_count_kv=kv_heads[0] if same else kv_heads,
        attention__key_length=HEAD,
        attention__value_length=HEAD,
    )
    writer.floats(attention__layer_norm_rms_epsilon=1e-6)


def projections(writer: Writer, layer: int) -> None:
    """Query, key, value and output of an attention layer."""
    for name in ("q", "k", "v"):
        writer.matrix(f"blk.{layer}.attn_{name}", HEADS * HEAD, EMBEDDING)
    writer.matrix(f"blk.{layer}.attn_output", EMBEDDING, HEADS * HEAD)


def feed_forward(writer: Writer, layer: int) -> None:
    """A gated feed-forward layer and the norm before it."""
    block = f"blk.{layer}"
    writer.norm(f"{block}.ffn_norm")
    writer.matrix(f"{block}.ffn_gate", FEED_FORWARD, EMBEDDING)
    writer.matrix(f"{block}.ffn_up", FEED_FORWARD, EMBEDDING)
    writer.matrix(f"{block}.ffn_down", EMBEDDING, FEED_FORWARD)
