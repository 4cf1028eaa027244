"""Pictures decoded ahead, while the models are at work on those before."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from flmm.batch.sources.items import Item
from flmm.errors import InputError, first_line
from flmm.pictures.reading import read_picture

_NUM_THREADS = 2


@dataclass(frozen=True, eq=False)
class DecodedItem:
    """An item and its picture, or why that cannot be read."""

    item: Item
    picture: Image.Image | str


def decode_ahead(items: Iterable[Item], window: int) -> Iterator[list[DecodedItem]]:
    """Yield items with their pictures, ``window`` at a time; the next ones are being decoded.

    Threads are enough: Pillow's decoders let others run.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(_NUM_THREADS, "flmm-decode") as threads:
        waiting: deque[Future[DecodedItem]] = deque()

        def fill() -> None:
            for item in islice(remaining, 2 * window - len(waiting)):
                waiting.append(threads.submit(_decode, item))

        fill()
        try:
            while waiting:
                yield [waiting.popleft().result() for _ in range(min(window, len(waiting)))]
                fill()
        finally:
            threads.shutdown(cancel_futures=True)


def _decode(item: Item) -> DecodedItem:
    try:
        return DecodedItem(item, read_picture(item.picture.load()))
    except InputError as error:
        return DecodedItem(item, str(error))
    except Exception as error:  # recorded: one picture does not end a batch
        return DecodedItem(item, f"{type(error).__name__}: {first_line(error)}")
