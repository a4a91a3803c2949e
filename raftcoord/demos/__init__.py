"""The product in a minute, on a throwaway cluster that is killed under load."""
