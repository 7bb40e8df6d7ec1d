"""Provisioning of MicroPython boards: the folder that a board needs, and copying it there.

Not here: what runs on the board (`agent/micro`), and who the device is.
"""
