"""Routes of this protocol."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
