"""Notices by e-mail: the digest for staff, and the notices to partners. See ``run.send()``."""
