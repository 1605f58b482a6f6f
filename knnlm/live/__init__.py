"""A finished study's kNN-LM at work: queries and generated text."""
