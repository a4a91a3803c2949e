"""Whatever comes in - bytes, messages, files - is either read or refused with the one error meant for it.

The suite runs few examples, always the same. RAFTCOORD_FUZZ=nightly (scripts/nightly) runs many, at random: see effort.py.
"""
