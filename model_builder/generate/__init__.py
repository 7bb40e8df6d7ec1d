"""Generators: importing pretrained decoders, and training small ones on pairs."""
