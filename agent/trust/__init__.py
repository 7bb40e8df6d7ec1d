"""What a device believes: the client of the fleet's signed repository, and its child."""
