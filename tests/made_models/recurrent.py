"""Models whose memory is a state that every token overwrites, alone or beside attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from made_models.attention import HEAD, attention_heads, feed_forward, projections
from made_models.writer import EMBEDDING, FEED_FORWARD, HEADS, VOCABULARY, Writer

_INNER, _STATE, _RANK, _KERNEL = 2 * EMBEDDING, 16, 8, 4


def mamba(path: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """Recurrent: state space layers only; memory does not grow with the context."""
    with Writer(path, "mamba", layers=layers, seed=seed) as writer:
        writer.bytes_vocabulary()
        writer.integers(vocab_size=VOCABULARY, attention__head_count=0)
        writer.floats(attention__layer_norm_rms_epsilon=1e-6)
        _state_space(writer)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            writer.norm(f"blk.{layer}.attn_norm")
            _mamba_layer(writer, layer, norms=False)
    return path


def jamba(path: Path, *, seed: int = 0) -> Path:
    """Hybrid: state space layers beside an attention layer without positions."""
    kv_heads = [0, HEADS, 0]
    with Writer(path, "jamba", layers=len(kv_heads), seed=seed) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, kv_heads)
        writer.integers(vocab_size=VOCABULARY)
        _state_space(writer)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer, heads in enumerate(kv_heads):
            writer.norm(f"blk.{layer}.attn_norm")
            if heads:
                projections(writer, layer)
            else:
                _mamba_layer(writer, layer, norms=True)
            feed_forward(writer, layer)
    return path


def lfm2(path: Path, *, seed: int = 0) -> Path:
    """Hybrid: short convolutions beside an attention layer. Its state can be rolled back a little
    if the context keeps snapshots (n_rs_seq)."""
    kv_heads = [0, HEADS, 0]
    with Writer(path, "lfm2", layers=len(kv_heads), seed=seed) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, kv_heads)
        writer.integers(vocab_size=VOCABULARY, shortconv__l_cache=3, rope__dimension_count=HEAD)
        writer.token_embedding()
        writer.norm("token_embd_norm")  # This architecture's name for the last norm.
        writer.output()
        for layer, heads in enumerate(kv_heads):
            block = f"blk.{layer}"
            writer.norm(f"{block}.attn_norm")
            if heads:
                projections(writer, layer)
                writer.norm(f"{block}.attn_q_norm", HEAD)
                writer.norm(f"{block}.attn_k_norm", HEAD)
            else:
                writer.matrix(f"{block}.shortconv.conv", EMBEDDING, 3)
                writer.matrix(f"{block}.shortconv.in_proj", 3 * EMBEDDING, EMBEDDING)
                writer.matrix(f"{block}.shortconv.out_proj", EMBEDDING, EMBEDDING)
            feed_forward(writer, layer)
    return path


def _state_space(writer: Writer) -> None:
    writer.integers(
        ssm__conv_kernel=_KERNEL,
        ssm__inner_size=_INNER,
        ssm__state_size=_STATE,
        ssm__time_step_rank=_RANK,
    )


def _mamba_layer(writer: Writer, layer: int, *, norms: bool) -> None:
    block = f"blk.{layer}"
    writer.matrix(f"{block}.ssm_in", 2 * _INNER, EMBEDDING)
    writer.matrix(f"{block}.ssm_conv1d", _INNER, _KERNEL)
    writer.bias(f"{block}.ssm_conv1d", _INNER)
    writer.matrix(f"{block}.ssm_x", _RANK + 2 * _STATE, _INNER)
    writer.matrix(f"{block}.ssm_dt", _INNER, _RANK)
    # As Mamba is initialised: decay rates 1 to 16, time steps 0.001 to 0.1 after the softplus.
    steps = np.exp(writer.uniform(np.log(1e-3), np.log(1e-1), _INNER))
    writer.array(f"{block}.ssm_dt.bias", np.log(np.expm1(steps)))
    rates = np.tile(np.arange(1, _STATE + 1, dtype=np.float64), (_INNER, 1))
    writer.array(f"{block}.ssm_a", -rates)
    writer.array(f"{block}.ssm_d", np.ones(_INNER))
    writer.matrix(f"{block}.ssm_out", EMBEDDING, _INNER)
    if norms:
        writer.norm(f"{block}.ssm_dt_norm", _RANK)
        writer.norm(f"{block}.ssm_b_norm", _STATE)
        writer.norm(f"{block}.ssm_c_norm", _STATE)


def qwen35(path: Path, *, seed: int = 0) -> Path:
    """Hybrid: gated delta nets beside an attention layer with M-RoPE, interleaved."""
    layers, heads, state = 3, 2, 16
    inner = heads * state
    with Writer(path, "qwen35", layers=layers, seed=seed) as writer:
        writer.bytes_vocabulary()
        attention_heads(writer, [HEADS] * layers)
        writer.integers(
            rope__dimension_count=HEAD,
            rope__dimension_sections=[6, 5, 5, 0],
            full_attention_interval=2,
            ssm__conv_kernel=_KERNEL,
            ssm__inner_size=inner,
            ssm__state_size=state,
            ssm__time_step_rank=heads,
            ssm__group_count=heads,
        )
        writer.floats(rope__freq_base=100.0)
        writer.token_embedding()
        writer.norm("output_norm")
        writer.output()
        for layer in range(layers):
            block = f"blk.{layer}"
            writer.norm(f"{block}.attn_norm")
            writer.norm(f"{block}.post_attention_norm")
            if layer % 2:
                writer.matrix(f"{block}.attn_q", 2 * HEADS * HEAD, EMBEDDING)  # with its gate
                writer.matrix(f"{block}.attn_k", HEADS * HEAD, EMBEDDING)
                writer.matrix(f"{block}.attn_v", HEADS * HEAD, EMBEDDING)
                writer.matrix(f"{block}.attn_output", EMBEDDING, HEADS * HEAD)
                writer.norm(f"{block}.attn_q_norm", HEAD)
                writer.norm(f"{block}.attn_k_norm", HEAD)
            else:
                writer.matrix(f"{block}.attn_qkv", 3 * inner, EMBEDDING)
                writer.matrix(f"{block}.attn_gate", inner, EMBEDDING)
                writer.matrix(f"{block}.ssm_conv1d", 3 * inner, _KERNEL)
                writer.bias(f"{block}.ssm_dt", heads)
                writer.array(f"{block}.ssm_a", -np.array([0.5, 2.0]))
                writer.matrix(f"{block}.ssm_beta", heads, EMBEDDING)
                writer.matrix(f"{block}.ssm_alpha", heads, EMBEDDING)
                writer.norm(f"{block}.ssm_norm", state)
                writer.matrix(f"{block}.ssm_out", EMBEDDING, inner)
            writer.matrix(f"{block}.ffn_gate", FEED_FORWARD, EMBEDDING)
            writer.matrix(f"{block}.ffn_up", FEED_FORWARD, EMBEDDING)
            writer.matrix(f"{block}.ffn_down", EMBEDDING, FEED_FORWARD)
    return path
