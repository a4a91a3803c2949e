"""Frames over TCP: the accepting side (server), the dialing side (dial), and what both share (connection, hello, codes)."""
