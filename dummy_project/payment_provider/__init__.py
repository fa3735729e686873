"""
A payment provider: takes the buyer's money and notifies the shop.

It represents a third party's server and runs in its own process. It shares only a secret with the
shop.
"""
