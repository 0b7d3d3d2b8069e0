"""Endpoints: other OpenAI-compatible servers whose models are used like those of this machine."""
