"""Hard examples of devices: asked for, put in an order, labelled, made into training rows."""
