"""Provisioning of MicroPython boards: the folder that a board needs, and copying it there."""
