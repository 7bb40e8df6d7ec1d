"""The students: small classifiers that fit a device. One file a student."""
