"""Documents in conversations: what a model that reads text gets to see of a file."""
