"""Starts simulated devices (``python -m agent.simulate``) as a program beside the controller."""
