"""`lmnb get | ls | ps | load | unload`."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING, Any

from lmnb.attaching import attach, find
from lmnb.cli import output
from lmnb.cli.endpoints import print_endpoints
from lmnb.errors import InvalidRequest

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_LOAD_OPTIONS = (
    "context_length",
    "parallel",
    "eval_batch_size",
    "gpu_layers",
    "experts_on_cpu",
    "devices",
    "split_mode",
    "tensor_split",
    "flash_attention",
    "bf16_weights",
    "offload_kv_cache_to_gpu",
    "num_experts",
    "cache_type_k",
    "cache_type_v",
    "swa_full",
    "cache_ram",
    "threads",
    "adapters",
    "draft_model",
    "draft_tokens",
    "projector",
)
"""The fields of `lmnb.engine.config.LoadConfig`; a test compares them."""


_AUTO = "default: as suits the device"


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    get = commands.add_parser("get", help="download a model")
    get.add_argument(
        "model",
        nargs="?",
        help="a built-in name, a Hugging Face repository or address, or a local file "
        "(default: the built-in chat model)",
    )
    get.add_argument("--quantization", metavar="NAME", help="such as q4_k_m")
    _json(get)
    get.set_defaults(run=_get)

    ls = commands.add_parser("ls", help="list the models on this machine")
    _json(ls)
    ls.set_defaults(run=_ls)

    ps = commands.add_parser("ps", help="list the loaded models")
    _json(ps)
    ps.set_defaults(run=_ps)

    _add_load(commands.add_parser("load", help="load a model"))

    unload = commands.add_parser("unload", help="unload a model")
    unload.add_argument("name", nargs="?", help="as shown by `lmnb ps` (default: the only one)")
    unload.add_argument("--all", action="store_true", help="every loaded model")
    unload.add_argument("--wait", action="store_true", help="finish what is being answered first")
    unload.set_defaults(run=_unload)


def _add_load(load: ArgumentParser) -> None:
    load.add_argument("model")
    load.add_argument(
        "--context-length", type=int, metavar="N", help="tokens (default: at most 8192)"
    )
    load.add_argument("--ttl", type=float, metavar="S", help="unload after S idle seconds")
    load.add_argument("--identifier", metavar="NAME", help="name to address it by")
    load.add_argument("--parallel", type=int, metavar="N", help="requests decoded together")
    load.add_argument("--gpu-layers", type=int, metavar="N", help="layers on the GPU; -1 is all")
    load.add_argument(
        "--experts-on-cpu",
        type=int,
        metavar="N",
        help="layers of a mixture of experts whose experts stay off the GPU; -1 is all",
    )
    load.add_argument("--devices", type=_names, metavar="NAME,…", help="GPUs to use (default: all)")
    load.add_argument(
        "--split-mode",
        choices=("none", "layer", "row", "tensor"),
        help="how several GPUs share a model (default: layer)",
    )
    load.add_argument(
        "--tensor-split",
        type=_numbers,
        metavar="X,…",
        help="share of each GPU (default: by memory)",
    )
    load.add_argument("--eval-batch-size", type=int, metavar="N", help="tokens of a forward pass")
    load.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    load.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        dest="adapters",
        metavar="FILE[=SCALE]",
        help="a LoRA adapter, applied to requests that choose none unless its scale is 0 "
        "(default: 1); may be given several times",
    )
    load.add_argument(
        "--projector",
        metavar="FILE",
        help="the model's encoder for images (default: the mmproj file beside it); "
        '"none" is without',
    )
    load.add_argument("--draft-model", metavar="NAME", help="a small model that guesses tokens")
    load.add_argument(
        "--draft-tokens",
        type=int,
        metavar="N",
        help="tokens guessed at a time; 0 is none (default: as many as pay)",
    )
    load.add_argument("--num-experts", type=int, metavar="N", help="of a mixture of experts")
    load.add_argument("--cache-type-k", metavar="TYPE", help="KV cache element type, such as q8_0")
    load.add_argument("--cache-type-v", metavar="TYPE")
    load.add_argument(
        "--cache-ram",
        type=int,
        metavar="BYTES",
        help="host memory for prefixes to come back to (default: 1/16 of it)",
    )
    load.add_argument(
        "--swa-full",
        action=BooleanOptionalAction,
        help="keep what is behind a sliding window (default: if that takes little memory)",
    )
    load.add_argument("--flash-attention", action=BooleanOptionalAction, help=f"({_AUTO})")
    load.add_argument(
        "--bf16-weights",
        action=BooleanOptionalAction,
        help="hold weights as BF16: tables are asked about faster, one answer takes longer "
        "(default: for embedding models of F16 where that is faster)",
    )
    load.add_argument("--offload-kv-cache-to-gpu", action=BooleanOptionalAction, help=f"({_AUTO})")
    load.add_argument(
        "--estimate-only",
        action="store_true",
        help="say how much memory it would take; load nothing",
    )
    _json(load)
    load.set_defaults(run=_load)


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _adapter(text: str) -> dict[str, Any]:
    path, separator, scale = text.rpartition("=")
    try:
        return {"path": path, "scale": float(scale)} if separator else {"path": text}
    except ValueError:  # a file name with "=" in it
        return {"path": text}


def _get(options: Namespace) -> None:
    events = output.connect().get(options.model, options.quantization)
    done = output.follow_download(events)
    if options.json:
        output.print_json(done)
    else:
        print(f"{done['key']} is ready ({output.size(done['size_bytes'])}, {done['path']}).")


def _ls(options: Namespace) -> None:
    models = output.connect().ls()
    if options.json:
        output.print_json(models)
    elif not models:
        output.note("No model is downloaded yet. `lmnb get` fetches a small one.")
    else:
        output.print_table(
            ("MODEL", "KIND", "PARAMS", "QUANT", "SIZE", "CONTEXT", "LOADED"),
            [
                (
                    model["key"],
                    model["kind"],
                    model["params_string"] or "?",
                    model["quantization"] or "?",
                    "remote" if model["endpoint"] else output.size(model["size_bytes"]),
                    str(model["max_context_length"] or "?"),
                    _where(model),
                )
                for model in models
            ],
        )


def _where(model: dict[str, Any]) -> str:
    """Under which ids a model is loaded, or which endpoint has it."""
    if not model["endpoint"]:
        return ", ".join(model["loaded"])
    return f"at {model['endpoint']}" + ("" if model["up"] else ", which is down")


def _ps(options: Namespace) -> None:
    loaded = _running_models()
    if options.json:
        output.print_json(loaded)
        return
    if loaded:
        print_loaded(loaded)
    else:
        output.note("No model is loaded.")
    if client := find():
        _print_pending(client.pending())


def _print_pending(pending: dict[str, Any]) -> None:
    for load in pending["loading"]:
        print(f"{load['id']} is being loaded: {load['progress']:.0%}.")
    for row in pending["unloading"]:
        print(f"{row['id']} is being unloaded; requests it still answers: {row['active']}.")
    if pending["endpoints"]:
        print_endpoints(pending["endpoints"])
    for row in pending["resting"]:
        print(
            f"{row['model']} is not loaded for {output.duration(row['seconds_left'])}: it has crashed "
            f"{row['crashes']} times in a row. {row['cause']}"
        )


def print_loaded(loaded: list[dict[str, Any]]) -> None:
    """A table of the loaded models."""
    output.print_table(
        ("NAME", "STATE", "QUEUE", "CONTEXT", "MEMORY", "DEVICE", "LAYERS ON GPU", "UNLOADED"),
        [
            (
                row["id"],
                row["state"],
                _queue(row),
                str(row["context_length"]),
                output.size(row["memory"]),
                row["device"],
                f"{row['gpu_layers']} of {row['layers']}",
                "on demand" if row["ttl_left"] is None else _countdown(row),
            )
            for row in loaded
        ],
    )


def _queue(row: dict[str, Any]) -> str:
    if row["running"] is None:
        return "?"
    return f"{row['running']} running, {row['waiting']} waiting" if row["active"] else ""


def _countdown(row: dict[str, Any]) -> str:
    left = output.duration(row["ttl_left"])
    return f"{left} after use" if row["active"] else f"in {left}"


def _load(options: Namespace) -> None:
    client = output.connect()
    load_options = {name: getattr(options, name) for name in _LOAD_OPTIONS}
    if options.ttl is not None and options.ttl <= 0:  # before the estimate, which takes a moment
        raise InvalidRequest("ttl must be a positive number of seconds.", param="ttl")
    if options.estimate_only:
        expected = client.estimate(options.model, **load_options)
        if options.json:
            output.print_json(expected)
        else:
            print(f"{options.model} would take {_describe(expected)}.")
        return
    if client.loaded(options.model, identifier=options.identifier, **load_options) is None:
        expected = client.estimate(options.model, **load_options)
        output.note(f"{options.model} is going to take {_describe(expected)}.")
    done = output.follow(
        f"Loading {options.model}",
        client.load(options.model, identifier=options.identifier, ttl=options.ttl, **load_options),
    )
    for text in [*done["warnings"], *filter(None, [done["hint"]])]:
        output.note(text)
    if options.json:
        output.print_json(done)
        return
    how = "already" if done["waited"] is None else f"({done['waited']:.1f} s)"
    print(
        f"{done['id']} is loaded {how}: context of "
        f"{done['context_length']} tokens, {output.size(done['memory'])} of memory, "
        f"{done['device']}, {done['gpu_layers']} of {done['layers']} layers on a GPU."
    )


def _describe(estimate: dict[str, Any]) -> str:
    """Such as `1.0 GB of memory (weights 97 MB, …), of 8.2 GB that are free`."""
    size = output.size
    on_gpu = f", {size(estimate['gpu'])} of it on a GPU" if estimate["gpu"] else ""
    slots = f"{estimate['parallel']} x {estimate['context_length']} tokens"
    return (
        f"{size(estimate['total'])} of memory{on_gpu} (weights {size(estimate['weights'])}, "
        f"cache {size(estimate['cache'])} for {slots}, "
        f"forward passes {size(estimate['compute'])}, the rest {size(estimate['other'])}); "
        f"{size(estimate['free'])} are free"
    )


def _unload(options: Namespace) -> None:
    if options.all and options.name:
        raise InvalidRequest("Give a name or --all, not both.")
    loaded = _running_models()
    name = options.name
    if not options.all and name is None:
        if len(loaded) != 1:
            names = ", ".join(row["id"] for row in loaded)
            raise InvalidRequest(
                f"Several models are loaded: {names}." if loaded else "No model is loaded.",
                hint="Name one of them, or say --all." if loaded else None,
            )
        name = loaded[0]["id"]
    if not loaded and options.all:
        output.note("No model is loaded.")
        return
    for unloaded in attach().unload(name, all=options.all, wait=options.wait):
        print(f"{unloaded} is unloaded.")


def _running_models() -> list[dict[str, Any]]:
    """What is loaded; nothing, if no server is running: none is started to find that out."""
    client = find()
    return client.ps() if client else []


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
