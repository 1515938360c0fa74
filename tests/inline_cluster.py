"""A cluster in the place of one of Dask: two 'workers' in this process; what travels is pickled."""

from __future__ import annotations

import pickle


class InlineCluster:
    """Does tasks in turn; ``fails_at`` is the number of the task that ends the work."""

    def __init__(self, fails_at=None):
        self.fails_at, self.done, self.built = fails_at, 0, {}

    def close(self):
        """End what is open there; the collector may find files before their owners."""
        for built in self.built.values():
            if hasattr(built, "front_end"):
                built.front_end.close()

    def workers(self):
        return ["one", "two"]

    def put(self, value):
        return pickle.dumps(value)

    def submit(self, build, work, put, item, worker=""):
        worker = worker or self.workers()[self.done % 2]
        key = build, put, worker
        if key not in self.built:
            self.built[key] = build(pickle.loads(put))
        item = pickle.loads(pickle.dumps(item))
        return pickle.loads(pickle.dumps(work(self.built[key], item)))

    def result(self, future):
        return future

    def map(self, build, work, put, items, total, label, progress):
        for item in progress.track(items, total, label):
            if self.done == self.fails_at:
                raise KeyboardInterrupt
            self.done += 1
            yield self.submit(build, work, put, item)
