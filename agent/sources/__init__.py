"""Local sources of text: the device classifies each line; the result goes out, the text stays.

The privacy rule is in one place, :class:`agent.sources.feed.Feed`: a result carries its text
only when the source is marked ``share_text``.

Not here: models, and the sending of results: a source gives lines to the queue.
"""
