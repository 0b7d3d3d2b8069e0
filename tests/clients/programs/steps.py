"""What all programs have in common: the setting they are given, and how they tell what happened."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel

setting = SimpleNamespace(**json.loads(sys.argv[1]))

OPENAI = {"base_url": f"{setting.url}/v1", "api_key": "none"}
ANTHROPIC = {"base_url": setting.url, "api_key": "none"}

DESCRIBE = "Describe a pet as JSON."


class Pet(BaseModel):
    """A pet, by which the small model is bound."""

    kind: Literal["cat", "dog", "hen"]
    tame: bool


cities: list[str] = []
"""What the tool has been asked for."""


def weather(city: str) -> str:
    """Tells the weather of a city, if it is the right one."""
    cities.append(city)
    return str(setting.weather) if city == setting.city else f"no {city}"


def asked() -> list[str]:
    """The cities since the last time."""
    found = cities.copy()
    cities.clear()
    return found


def tell(steps: Mapping[str, Callable[[], Any]]) -> None:
    """Take all steps, and print what each says."""
    told: dict[str, Any] = {}
    for name, step in steps.items():
        try:
            told[name] = {"said": step()}
        except Exception:  # noqa: BLE001 - that is what is told
            told[name] = {"failed": traceback.format_exc()}
    print(json.dumps(told))  # noqa: T201
