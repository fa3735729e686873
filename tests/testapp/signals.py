from __future__ import annotations

from django.dispatch import Signal

#: A signal of the host's own.
something_happened = Signal()
