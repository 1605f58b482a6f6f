"""Keys and values of training tokens, and the search for the nearest (equation 1)."""
