"""Models of endpoints as one more source of events: requests out, chunks in."""
