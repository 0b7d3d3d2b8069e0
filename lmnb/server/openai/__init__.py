"""OpenAI's protocols: Chat Completions, Responses, Completions, Embeddings, Models."""
