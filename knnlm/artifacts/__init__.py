"""How results lie on disk: files, their descriptions, and what belongs together."""
