"""Raft: PySyncObj, driven from outside and corrected. The only importer of pysyncobj."""
