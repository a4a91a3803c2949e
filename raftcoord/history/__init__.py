"""What clients asked and were told, and whether one write-once ledger can have told it."""
