"""Text that a model writes: to learn from where nobody has rows."""
