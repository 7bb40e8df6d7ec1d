"""Starts simulated devices (``python -m agent.simulate``) as a program beside the controller.

Not here: what a simulated device does (`agent/simulate`).
"""
