"""The device's own certificate: keys that never leave it, requests, renewal."""
