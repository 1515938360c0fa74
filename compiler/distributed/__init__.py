"""Work on several processes or machines: a cluster of Dask, and what runs on it.

Nothing outside this folder imports Dask, and it is imported here only when a cluster is asked for:
it is the extra ``distributed``.
"""
