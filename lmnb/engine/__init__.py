"""One loaded model. Knows tokens; never messages, never HTTP."""
