"""What a device tells of itself: counted in memory, kept in a spool on disk, sent in order.

Not here: the connection (:mod:`agent.link`), and any text of a user.
"""
