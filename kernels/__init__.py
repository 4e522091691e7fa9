"""Triton kernels of memcore, named as the ops.

Empty for now: the kernels come with the GPU engine. Files here import each other relatively and
never import memcore.
"""
