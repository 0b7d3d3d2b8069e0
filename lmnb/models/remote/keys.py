"""API keys of endpoints: from the environment, or from a file that only its user can read.

A key is looked for among those that were brought by whoever connected the endpoint (whose variable
may be newer than that of the server, which was started before), then in the server's environment,
then in `$LMNB_HOME/secrets.json`, `{"VARIABLE": "key"}`, of mode 600. It is shown nowhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lmnb.config import read_json, write_json
from lmnb.errors import ConfigError, InvalidRequest

MODE = 0o600


class Keys:
    """The keys that a server knows."""

    def __init__(self, home: Path) -> None:
        self._path = home / "secrets.json"
        self._brought: dict[str, str] = {}

    def bring(self, variable: str, key: str) -> None:
        """Keep a key for as long as the server runs."""
        self._brought[variable] = checked(key)

    def save(self, variable: str, key: str) -> None:
        """Keep a key on disk. Blocks (disk)."""
        write_json(self._path, self._read() | {variable: checked(key)}, mode=MODE)

    def find(self, variable: str) -> str:
        """The key that `variable` stands for. Blocks (disk).

        Raises
        ------
        ConfigError
            There is none, or the file cannot be used.
        """
        found = self._brought.get(variable) or os.environ.get(variable)
        found = found or self._read().get(variable)
        if not found:
            raise ConfigError(
                f"{variable}, which is to hold the key of the endpoint, is not set.",
                hint=f"Set it and run `lmnb connect` again; --save-key keeps it in {self._path}.",
            )
        return checked(found)

    def _read(self) -> dict[str, str]:
        try:
            mode = stat.S_IMODE(self._path.stat().st_mode)
        except FileNotFoundError:
            return {}
        if mode & 0o077:
            raise ConfigError(
                f"{self._path} holds keys, and others may read it (mode {mode:o}).",
                hint=f"chmod 600 {self._path}",
            )
        data = read_json(self._path, {})
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data.values()):
            raise ConfigError(f'{self._path} must hold {{"VARIABLE": "key"}}.')
        return data


def checked(key: str) -> str:
    """The key without white space around it.

    Raises
    ------
    InvalidRequest
        No HTTP header can carry it.
    """
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest(
            "The key of the endpoint has characters that no HTTP header can carry.", param="key_env"
        )
    return key
