"""``shoal demo``: the whole path on one machine, from text data to a refused bad model."""
