"""The fleet controller: signs and publishes models, rolls them out, collects metrics, queries.

Not here: training (the builder has it), and what runs on a device.
"""
