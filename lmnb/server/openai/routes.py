"""The routes of OpenAI's protocols."""

from __future__ import annotations

from fastapi import APIRouter

from lmnb.server.openai import (
    batches,
    chat,
    completions,
    conversations,
    embeddings,
    files,
    models,
    rerank,
    responses,
    responses_socket,
)

router = APIRouter()
# Plain Starlette routes: handlers read their bodies themselves, leniently (see `body`).
router.add_route("/v1/models", models.index, methods=["GET"])
router.add_route("/v1/models/{id:path}", models.retrieve, methods=["GET"])
router.add_route("/v1/chat/completions", chat.create, methods=["POST"])
router.add_route("/v1/chat/completions/input_tokens", chat.input_tokens, methods=["POST"])
router.add_route("/v1/completions", completions.create, methods=["POST"])
router.add_route("/v1/responses", responses.create, methods=["POST"])
router.add_websocket_route("/v1/responses", responses_socket.serve)
router.add_route("/v1/responses/input_tokens", responses.input_tokens, methods=["POST"])
router.add_route("/v1/responses/compact", responses.compact, methods=["POST"])
router.add_route("/v1/responses/{id}", responses.retrieve, methods=["GET"])
router.add_route("/v1/responses/{id}", responses.delete, methods=["DELETE"])
router.add_route("/v1/responses/{id}/cancel", responses.cancel, methods=["POST"])
router.add_route("/v1/responses/{id}/input_items", responses.input_items, methods=["GET"])
router.add_route("/v1/conversations", conversations.create, methods=["POST"])
router.add_route("/v1/conversations/{id}", conversations.retrieve, methods=["GET"])
router.add_route("/v1/conversations/{id}", conversations.update, methods=["POST"])
router.add_route("/v1/conversations/{id}", conversations.delete, methods=["DELETE"])
router.add_route("/v1/conversations/{id}/items", conversations.add_items, methods=["POST"])
router.add_route("/v1/conversations/{id}/items", conversations.list_items, methods=["GET"])
_ITEM = "/v1/conversations/{id}/items/{item}"
router.add_route(_ITEM, conversations.retrieve_item, methods=["GET"])
router.add_route(_ITEM, conversations.delete_item, methods=["DELETE"])
router.add_route("/v1/embeddings", embeddings.create, methods=["POST"])
router.add_route("/v1/rerank", rerank.create, methods=["POST"])
# Cohere's client, which asks for the same and reads the same.
router.add_route("/v2/rerank", rerank.create, methods=["POST"])
router.add_route("/v1/files", files.create, methods=["POST"])
router.add_route("/v1/files", files.index, methods=["GET"])
router.add_route("/v1/files/{id}", files.retrieve, methods=["GET"])
router.add_route("/v1/files/{id}", files.delete, methods=["DELETE"])
router.add_route("/v1/files/{id}/content", files.content, methods=["GET"])
router.add_route("/v1/batches", batches.create, methods=["POST"])
router.add_route("/v1/batches", batches.index, methods=["GET"])
router.add_route("/v1/batches/{id}", batches.retrieve, methods=["GET"])
router.add_route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"])
