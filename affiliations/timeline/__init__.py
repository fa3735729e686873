"""
What happened to a visitor, or lately on this site, in words: credited or not, and why.

``find`` returns the ids of visitors, ``build`` their timelines, and ``recent`` the latest events of
the site or of a partner, in the active language.
"""

from affiliations.timeline.activity import recent
from affiliations.timeline.entries import Entry
from affiliations.timeline.visitors import LIMIT, Timeline, build, find

__all__ = ["LIMIT", "Entry", "Timeline", "build", "find", "recent"]
