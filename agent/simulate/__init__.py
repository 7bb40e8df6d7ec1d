"""Many simulated devices in one process: the agent's own parts, driven by one event loop.

Each device has its own connection, and the same engine, recorder, reporter and dispatcher as an
agent. Its disk is in memory, its runtime answers from a script, and its turns come from the loop
in place of threads. What it would compute is made up from a scenario, the same for the same seed.

Not here: a second meaning of anything that the agent decides or says: it uses the agent's.
"""
