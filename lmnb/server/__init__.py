"""HTTP: the public protocols, the control API, and the process they live in."""
