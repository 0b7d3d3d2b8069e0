"""From a `Format` and tools to a grammar."""
