"""Hard examples of devices: asked for, put in an order, labelled, made into training rows.

Not here: the asking itself (:mod:`fleet.query`), and training on what came.
"""
