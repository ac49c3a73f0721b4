"""Work that overlaps: stages in threads of their own, with bounded queues between them, and their order kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for one stage; when the block ends they finish what they have in hand, and drop what waits."""
    executor = ThreadPoolExecutor(max_workers=count)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def ahead(submit: Callable[[Item], Future[Made]], items: Iterable[Item], depth: int) -> Iterator[Made]:
    """What becomes of the items, in their order, at most `depth` of them under way.

    Chained, each stage works while those after it do: a stage is handed its next items before it is waited for.
    """
    under_way: deque[Future[Made]] = deque()
    for item in items:
        under_way.append(submit(item))
        if len(under_way) == depth:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
