"""Notices by e-mail: the digest for staff, and what partners are told. See ``run.send()``."""
