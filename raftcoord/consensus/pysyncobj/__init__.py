"""PySyncObj, corrected: all that goes if PySyncObj goes. docs/pysyncobj.md lists each correction with its test."""
