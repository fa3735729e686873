"""
A partner's site: a tea magazine that links to the shop and receives its callbacks.

It represents a third party's server and runs in its own process. It knows only what any partner
knows: the shop's address, its uid for links to the shop, and its own callback URL, `/callback/`.
"""
