"""A dress rehearsal of config/paper.yaml: the same jobs with tiny models on small texts (`make rehearsal`)."""
