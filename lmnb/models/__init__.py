"""Model files and loaded instances: catalog, sources, load, idle TTL, eviction."""
