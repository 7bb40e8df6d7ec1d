"""Updates: from the desired document to a committed bundle, or back, never in between."""
