"""The builder: teacher -> distilled student -> int8 -> bundle with proof."""
