"""The agent: runs on a device, serves models locally, talks MQTT, updates itself safely."""
