"""The students: small classifiers that fit a device. One file a student.

Not here: teachers, and when a student is good enough.
"""
