"""From a chat template to a `Format`."""
