"""The teachers: where the soft labels come from.

Not here: students, and when a teacher is asked: a build decides that.
"""
