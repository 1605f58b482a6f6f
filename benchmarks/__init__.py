"""Our side beside what a user would take instead, measured alternately in one process. `make bench` runs everything."""
