"""Settings: environment over `$LMNB_HOME/settings.json` over the defaults below.

Every setting is also an environment variable: `LMNB_` and its name in capitals.
The server reads them when it starts, and changes them while it runs (`change_setting`); where to
listen is read by whoever asks for it.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from lmnb.errors import ConfigError, InvalidRequest
from lmnb.runtime import find_home


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [name for part in value.split(",") if (name := part.strip())]


_changing = threading.Lock()


class Settings(BaseSettings):
    """All settings. One object a server, which `change_setting` changes in place. Times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="LMNB_", env_ignore_empty=True, extra="forbid", use_attribute_docstrings=True
    )

    home: Path
    """Where models, database, caches and logs live (`LMNB_HOME`, default `~/.lmnb`)."""
    host: str = Field("127.0.0.1", min_length=1)
    """Address that `serve` listens on unless told otherwise; 0.0.0.0 is the local network."""
    port: int = Field(1234, ge=0, le=65535)
    """Port that `serve` listens on unless told otherwise. Nothing listens before `serve`."""
    require_auth: bool = False
    """Every request over TCP needs an API token."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    """Names, separated by commas, under which clients may reach a port that asks for no token,
    beyond this machine's own (the Host header is checked against DNS rebinding)."""
    cors: bool = False
    """Web pages of any origin may use the server."""
    allow_request_mcp: bool = False
    """Requests over TCP may name remote MCP servers, whose tools the model then calls."""
    allow_configured_mcp: bool = False
    """Requests over TCP that come with a token for it may use the MCP servers of `mcp.json`."""
    mcp_timeout: float = Field(120.0, gt=0, allow_inf_nan=False)
    """How long a call of an MCP server's tool may take."""
    jit_loading: bool = True
    """A request for a model that is not loaded loads it."""
    jit_ttl: float = Field(3600.0, ge=0, allow_inf_nan=False)
    """Idle time after which a model loaded that way is unloaded; 0 is never."""
    auto_evict: bool = True
    """Loading a model that way first unloads the one that was loaded that way before."""
    default_context_length: int | None = Field(None, ge=1, lt=1 << 31)
    """Context of models loaded without one, in tokens; unless set, the engine chooses."""
    prefix_disk: int = Field(0, ge=0)
    """Bytes of disk for the state of prompts, under `cache/prefixes`: a conversation then goes on
    where it was after its model was unloaded. 0 is none. Read when a model is loaded."""
    endpoint_timeout: float = Field(300.0, gt=0, allow_inf_nan=False)
    """How long an endpoint (`lmnb connect`) may say nothing before a request is given up there."""
    parallel_downloads: int = Field(3, ge=1)
    """How many models are fetched at a time; others wait for their turn."""
    log_prompts: bool = False
    """The log of requests (`log/requests.jsonl`) has the exact prompts and answers, too. The last
    32 MB of it are kept."""
    idle_exit: float = Field(600.0, ge=0, allow_inf_nan=False)
    """The server ends after this time with nothing loaded, listening or running; 0 is never."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first: what is passed in comes from the file."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


WHEN_LISTENING = frozenset({"host", "port", "require_auth", "allowed_hosts", "cors"})
"""Settings that a port which is open already keeps as they were when it was opened."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it is shown.

    `value` and `default` are JSON, `text` is the value as people write it, `source` is who set it.
    """

    name: str
    value: Any
    text: str
    default: Any
    source: Literal["default", "file", "environment"]
    description: str


def load_settings(home: Path | None = None) -> Settings:
    """The settings in force. `home` None is `$LMNB_HOME`.

    Raises
    ------
    ConfigError
        The file is not JSON, or a value cannot be used; the message names where it stands.
    """
    home = home or find_home()
    path = _path(home)
    try:
        settings = Settings(**{**_read(path), "home": home})
    except ValidationError as error:
        raise _config_error(error, path) from None
    return settings.model_copy(update={"home": home})


def describe(settings: Settings) -> list[Setting]:
    """All settings but `home`, in their order. Blocks (disk)."""
    in_file = _read(_path(settings.home))
    values = settings.model_dump(mode="json")
    found = []
    for name, field in Settings.model_fields.items():
        if name == "home":
            continue
        in_environment = _is_in_environment(name)
        found.append(
            Setting(
                name=name,
                value=values[name],
                text=_text(values[name]),
                default=field.get_default(call_default_factory=True),
                source="environment"
                if in_environment
                else "file"
                if name in in_file
                else "default",
                description=" ".join((field.description or "").split()),
            )
        )
    return found


def change_setting(settings: Settings, name: str, value: Any) -> None:
    """Set `name` in the file and in `settings`; None is the default. Blocks (disk).

    Text is read as in the environment: `on`, `600`, `a.example,b.example`.

    Raises
    ------
    InvalidRequest
        There is no such setting, it cannot have this value, or the environment sets it.
    ConfigError
        The file cannot be read or written.
    """
    if name not in Settings.model_fields or name == "home":
        known = ", ".join(field for field in Settings.model_fields if field != "home")
        raise InvalidRequest(
            f"There is no setting {name!r}.", hint=f"Settings are {known}.", param="name"
        )
    if _is_in_environment(name):
        raise InvalidRequest(
            f"{_variable(name)} in the server's environment sets {name}.",
            hint="Remove it there, and restart the server with `lmnb stop`.",
            param=name,
        )
    path = _path(settings.home)
    with _changing:
        stored = _read(path)
        stored.pop(name, None)
        given = {} if value is None else {name: value}
        try:
            changed = Settings(**{**stored, "home": settings.home, **given})
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"][:1] != (name,):
                raise _config_error(error, path) from None
            message = f"{name} cannot be {value!r}: {_reason(first)}."
            raise InvalidRequest(message, param=name) from None
        if given:
            stored[name] = changed.model_dump(mode="json")[name]
        write_json(path, stored)
        setattr(settings, name, getattr(changed, name))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _path(home: Path) -> Path:
    return home / "settings.json"


def _variable(name: str) -> str:
    return f"LMNB_{name.upper()}"


def _is_in_environment(name: str) -> bool:
    """As pydantic-settings sees it: names in any case, empty ones not at all."""
    return any(key.upper() == _variable(name) and value for key, value in os.environ.items())


def write_json(path: Path, data: dict[str, Any], *, mode: int = 0o666) -> None:
    """Write a file that people read, whole or not at all, whatever happens meanwhile.

    `mode` is what its user's umask leaves of the permissions.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    write_whole(path, (json.dumps(data, indent=2) + "\n").encode(), mode=mode)


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file, whole or not at all; `mode` and errors as of `write_json`."""
    part = path.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)  # Its permissions could be others.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None


def read_json(path: Path, default: Any) -> Any:
    """What a file that people write holds; `default` if there is none.

    Raises
    ------
    ConfigError
        It cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None


def _read(path: Path) -> dict[str, Any]:
    data = read_json(path, {})
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object.")
    return data


def _config_error(error: ValidationError, path: Path) -> ConfigError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields))
        return ConfigError(f"{path}: there is no setting {name!r}.", hint=f"Settings are {known}.")
    variable = _variable(name)
    where = (
        f"The environment variable {variable}" if _is_in_environment(name) else f"{path}, {name}"
    )
    return ConfigError(f"{where} cannot be {first['input']!r}: {_reason(first)}.")


def _reason(error: Any) -> str:
    """What pydantic says, without how it has tried to read the text."""
    reason: str = error["msg"].partition(", unable to")[0]
    return reason[:1].lower() + reason[1:]
