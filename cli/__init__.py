"""The command line: thin; every command is a few lines over raftcoord."""
