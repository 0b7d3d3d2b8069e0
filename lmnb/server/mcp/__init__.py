"""Tools that servers of the Model Context Protocol offer, called here on the model's behalf."""
