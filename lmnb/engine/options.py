"""What a request to a loaded model is made of, and what it is told about its tokens."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Prompt text. With `special`, control tokens written in it are read as control tokens.

    `media`: an image or a sound that stands here instead, the bytes of its file.
    """

    text: str
    special: bool = False
    media: bytes | None = None


class AdapterChoice(msgspec.Struct, frozen=True, array_like=True):
    """An adapter a request uses, by name or number, and how strongly. Scale 0 is not at all."""

    adapter: str | int
    scale: float = 1.0


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling with every value filled in. The defaults are llama.cpp's server's.

    Source of the order and the defaults: llama.cpp, common/common.h (common_params_sampling).
    What each means is in the README, the ranges are in `lmnb.engine.sampling_options`.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: dict[int, float] = {}


class Trigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Texts at which a grammar takes over an answer that is free until then.

    texts
        The grammar reads on from the beginning of the one that comes first. Control tokens in them
        count as the tokens only, not spelled out.
    leading
        They are looked for at the very beginning of the answer only, white space aside.
    """

    texts: tuple[str, ...]
    leading: bool = False


class ConstraintSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answer must look like. `text` is a JSON schema, a regex or a Lark grammar.

    lenient
        Keywords of a JSON schema that cannot be enforced are left out instead of refused.
    after
        The constraint begins after this text, which ends the model's thinking; None: at once.
    opening
        The text that begins the thinking, if it is the model's choice whether to think at all;
        None with `after`: the prompt has begun it.
    trigger
        The answer is free, and may end, until one of these texts; thinking has none. None: the
        grammar binds from the beginning.
    closing
        From half of the most tokens it may have, the answer is drawn to its end, the more the
        closer it comes to them: closing quotes and brackets become likelier. A model that has
        something to say goes on nevertheless; one that rambles stops, instead of being cut.
    """

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = ""
    lenient: bool = False
    after: str | None = None
    opening: str | None = None
    trigger: Trigger | None = None
    closing: bool = False


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The most tokens a model may think, its marks left out.

    end
        What is written then, with control tokens: white space, and the text that ends the thinking.
    opening
        The text that begins it, where the model may begin it; "" is none.
    begun
        The prompt has begun it.
    between
        What stands before each further message of an answer that has several, all of which have
        this `end`; "": an answer is one message.
    shared
        The beginning of `opening` that other messages have, too. After the bound, messages that go on
        as `opening` does are not begun. "": they are ended at once.
    """

    tokens: int
    end: str
    opening: str = ""
    begun: bool = False
    between: str = ""
    shared: str = ""


Truncate: TypeAlias = bool | Literal["start", "end"]
"""What happens to a text that is too long: an error (False), or its end (True, `end`) or start is cut off."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's text, bytes and natural-log probability before sampling, with alternatives."""

    token: str
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()
