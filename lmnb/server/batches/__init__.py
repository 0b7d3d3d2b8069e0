"""Batches: many requests that are answered when there is nothing more urgent to do."""
