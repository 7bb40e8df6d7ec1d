"""Classifiers that give a text several labels, or none: from a recipe to a bundle.

Not here: texts with one label, and what both kinds share (:mod:`model_builder.classify`).
"""
