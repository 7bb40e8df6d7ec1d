"""What Home Assistant is shown of each device's versions, and what its users ask for.

Not here: what a device itself tells Home Assistant (:mod:`agent.telemetry.homeassistant`).
"""
