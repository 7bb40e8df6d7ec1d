"""What a device believes: the client of the fleet's signed repository, and its child.

Not here: how bytes are fetched, what is in a bundle, and any word of MQTT.
"""
