"""How results are stored on disk: files, their descriptions, and checks that artifacts can be used together."""
