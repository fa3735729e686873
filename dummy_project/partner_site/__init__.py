"""
A partner's site: a tea magazine that links to the shop and is told what became of its readers.

It stands for somebody else's server. It runs in a process of its own and knows of the shop what any
partner knows: the shop's address, the uid that its links to the shop carry, and that callbacks
arrive at its own `/callback/`.
"""
