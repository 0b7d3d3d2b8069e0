"""Settings: environment over `$LMNB_HOME/settings.json` over the defaults below.

Every setting is also an environment variable: `LMNB_` and its name in capitals.
The server reads them once, when it starts; where to listen is read by whoever asks for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from lmnb.errors import ConfigError
from lmnb.runtime import find_home


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Settings(BaseSettings):
    """All settings. Times in seconds.

    home
        Where models, database, caches and logs live (`LMNB_HOME`, default `~/.lmnb`).
    host, port
        Where `serve` listens unless told otherwise. Nothing listens before `serve`.
    require_auth
        Every request over TCP needs an API token.
    allowed_hosts
        Names under which clients may reach a listener that asks for no token, beyond this
        machine's own (the Host header is checked against DNS rebinding). In the environment
        separated by commas.
    cors
        Web pages of any origin may use the server.
    jit_loading
        A request for a model that is not loaded loads it.
    jit_ttl
        Idle time after which a model loaded that way is unloaded.
    auto_evict
        Loading a model that way first unloads the one that was loaded that way before.
    default_context_length
        Context of models loaded without one, in tokens; None lets the engine choose.
    prefix_disk
        Bytes of disk for the state of prompts, under `home`/cache/prefixes: a conversation then
        goes on where it was after its model was unloaded. 0, the default, is none.
    idle_exit
        The server ends after this time with nothing loaded, listening or running; 0 is never.
    """

    model_config = SettingsConfigDict(
        env_prefix="LMNB_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    home: Path
    host: str = "127.0.0.1"
    port: int = Field(1234, ge=0, le=65535)
    require_auth: bool = False
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    cors: bool = False
    jit_loading: bool = True
    jit_ttl: float = Field(3600.0, gt=0)
    auto_evict: bool = True
    default_context_length: int | None = Field(None, ge=1)
    prefix_disk: int = Field(0, ge=0)
    idle_exit: float = Field(600.0, ge=0)

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


def load_settings(home: Path | None = None) -> Settings:
    """The settings in force. `home` None is `$LMNB_HOME`.

    Raises
    ------
    ConfigError
        The file is not JSON, or a value cannot be used; the message names where it stands.
    """
    home = home or find_home()
    path = home / "settings.json"
    try:
        settings = Settings(**{**_read(path), "home": home})
    except ValidationError as error:
        raise _config_error(error, path) from None
    return settings.model_copy(update={"home": home})


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object.")
    return data


def _config_error(error: ValidationError, path: Path) -> ConfigError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields))
        return ConfigError(f"{path}: there is no setting {name!r}.", hint=f"Settings are {known}.")
    variable = f"LMNB_{name.upper()}"
    where = f"The environment variable {variable}" if variable in os.environ else f"{path}, {name}"
    return ConfigError(f"{where} cannot be {first['input']!r}: {first['msg']}.")
