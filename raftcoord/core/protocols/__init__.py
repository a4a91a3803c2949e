"""Protocols that coordinate one transaction: events in, effects out."""
