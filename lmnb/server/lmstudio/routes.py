"""LM Studio's REST API v1: models, their life, chats."""

from __future__ import annotations

from fastapi import APIRouter

from lmnb.server.lmstudio import chat, models

router = APIRouter(prefix="/api/v1")
router.add_api_route("/models", models.index, methods=["GET"])
router.add_api_route("/models/load", models.load, methods=["POST"])
router.add_api_route("/models/unload", models.unload, methods=["POST"])
router.add_api_route("/chat", chat.create, methods=["POST"])
