"""The next version of a model from what devices and people said of this one."""
