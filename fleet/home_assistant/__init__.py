"""What Home Assistant is shown of each device's versions, and what its users ask for."""
