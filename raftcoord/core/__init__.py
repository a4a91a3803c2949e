"""The rules, pure: no I/O, no clock, no randomness, no asyncio. Values in, effects out."""
