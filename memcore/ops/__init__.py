"""The ops over arrays: check the arguments, allocate the results, run an engine."""
