"""The fleet controller: signs and publishes models, rolls them out, collects metrics, queries."""
