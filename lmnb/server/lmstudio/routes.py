"""LM Studio's REST API, v1 and the older v0: models, their life, chats."""

from __future__ import annotations

from fastapi import APIRouter

from lmnb.server.lmstudio import chat, downloads, models, v0

router = APIRouter()
router.add_route("/api/v1/models", models.index, methods=["GET"])
router.add_route("/api/v1/models/load", models.load, methods=["POST"])
router.add_route("/api/v1/models/unload", models.unload, methods=["POST"])
router.add_route("/api/v1/models/download", downloads.create, methods=["POST"])
_STATUS = "/api/v1/models/download/status/{job_id}"
router.add_route(_STATUS, downloads.status, methods=["GET"])
router.add_route("/api/v1/chat", chat.create, methods=["POST"])
router.add_route("/api/v0/models", v0.index, methods=["GET"])
router.add_route("/api/v0/models/{id:path}", v0.retrieve, methods=["GET"])
router.add_route("/api/v0/chat/completions", v0.chat_completions, methods=["POST"])
router.add_route("/api/v0/completions", v0.text_completions, methods=["POST"])
router.add_route("/api/v0/embeddings", v0.embed, methods=["POST"])
