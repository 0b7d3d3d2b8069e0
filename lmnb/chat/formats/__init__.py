"""What models write: derived from their templates, read from their streams, forced by grammars."""
