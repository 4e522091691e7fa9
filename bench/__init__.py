"""The bench of memcore: cases, rivals, a gate that checks answers before it times them, and rows.

Start it as `memcore bench`. It ships inside the package so that anyone can measure on their own
machine; nothing else in memcore imports it.
"""
