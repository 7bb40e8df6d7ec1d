"""Classifiers that give a text several labels, or none: from a recipe to a bundle."""
