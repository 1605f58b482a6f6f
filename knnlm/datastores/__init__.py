"""The datastore of keys and values (equation 1), its indexes, and the search for nearest neighbors."""
