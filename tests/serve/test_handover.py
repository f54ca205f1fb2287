"""What the engine's thread hands over arrives in the loop, in its order, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading

from qadapter.serve.api.handover import Handover


class Counting:
    """A loop that counts how often another thread wakes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.wakes = loop, 0

    def call_soon_threadsafe(self, function: object) -> None:
        self.wakes += 1
        self.loop.call_soon_threadsafe(function)  # type: ignore[arg-type]


def test_nothing_is_lost_or_out_of_order_while_the_loop_runs() -> None:
    async def main() -> list[int]:
        handover, heard, done = Handover(asyncio.get_running_loop()), [], asyncio.Event()

        def speak() -> None:
            for number in range(20_000):
                handover.put(heard.append, number)
            handover.put(lambda _: done.set(), None)

        speaker = threading.Thread(target=speak)
        speaker.start()
        await asyncio.wait_for(done.wait(), 30)
        speaker.join()
        return heard

    assert asyncio.run(main()) == list(range(20_000))


def test_the_loop_is_woken_once_for_all_that_comes_before_it_runs() -> None:
    async def main() -> None:
        counting, heard = Counting(asyncio.get_running_loop()), []
        handover = Handover(counting)  # type: ignore[arg-type]
        for step in range(3):
            for stream in range(8):
                handover.put(heard.append, (step, stream))
            assert counting.wakes == step + 1
            await asyncio.sleep(0)
        assert heard == [(step, stream) for step in range(3) for stream in range(8)]

    asyncio.run(main())
