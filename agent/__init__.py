"""The agent: runs on a device, serves models locally, talks MQTT, updates itself safely.

Not here: what signs, publishes or judges models, and anything that a board of 512 MB has no room
for.
"""
