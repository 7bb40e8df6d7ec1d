"""The teachers: where the soft labels come from."""
