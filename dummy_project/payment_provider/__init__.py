"""
A payment provider: takes the buyer's money and tells the shop of it.

It stands for somebody else's server. It runs in a process of its own and shares a secret with the
shop, and no more.
"""
