"""Engine: the step coroutine over a FakeExecutor, on a real event loop."""

from __future__ import annotations

import asyncio
import random

import pytest
from fakes import DeviceError
from patience import settled, until
from served_engine import Served, serving

from octavo.scheduler.errors import CapacityError
from octavo.scheduler.request import FinishReason


@pytest.mark.parametrize("overlap", [True, False])
def test_many_clients_get_their_own_answers(overlap: bool) -> None:
    async def main() -> None:
        async with serving(overlap=overlap) as served:
            ids = [served.add([index % 5 + 1] * (index % 9 + 1), 12) for index in range(40)]
            await served.ended(*ids)
            for request_id in ids:
                served.check(request_id)
            await until(lambda: served.scheduler.pool.num_free == 64)
            assert served.executor.max_in_flight == 1 + overlap
            assert served.engine.stats().counters.num_steps == len(served.executor.plans)

    asyncio.run(main())


def test_a_step_delivers_all_its_outputs_at_once() -> None:
    async def main() -> None:
        async with serving() as served:
            ids = [served.add([index + 1, 2], 10, ignore_eos=True) for index in range(4)]
            await served.ended(*ids)
            assert [len(outputs) for outputs in served.clients.deliveries] == [4] * 10

    asyncio.run(main())


def test_the_loop_serves_others_while_the_device_works() -> None:
    async def main() -> None:
        async with serving(latency_s=0.05) as served:
            request_id = served.add([1, 2], 4, ignore_eos=True)
            ages_s = set[float]()
            while not served.clients.ended[request_id].is_set():
                await asyncio.sleep(0)
                ages_s.add(served.engine.step_age_s())
            assert len(ages_s - {0.0}) > 4, "nobody had a turn while the device was at a step"
            assert served.engine.stats().last_step_s > 0.02

    asyncio.run(main())


def test_an_idle_engine_sleeps_and_a_request_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving() as served:
            calls = 0
            schedule = served.scheduler.schedule

            def counted() -> object:
                nonlocal calls
                calls += 1
                return schedule()

            monkeypatch.setattr(served.scheduler, "schedule", counted)
            await asyncio.sleep(0.02)
            for _ in range(3):
                request_id = served.add([1, 2, 3])
                await served.ended(request_id)
                served.check(request_id)
                await settled(lambda: calls)

    asyncio.run(main())


def test_what_can_wait_is_done_while_nothing_runs_and_stops_for_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with serving() as served:
            in_flight: list[int] = []
            left = 10_000_000

            def tend() -> bool:
                nonlocal left
                left -= 1
                in_flight.append(served.engine.load()[0])
                return left > 0

            monkeypatch.setattr(served.executor, "tend", tend)
            for _ in range(3):
                request_id = served.add([1, 2, 3], 20)
                await served.ended(request_id)
                served.check(request_id)
                before = len(in_flight)
                while len(in_flight) == before:
                    await asyncio.sleep(0)
            assert set(in_flight) == {0}
            left = 1
            await settled(lambda: len(in_flight))  # an engine with nothing to tend sleeps

    asyncio.run(main())


def test_an_abort_is_heard_at_once_and_nothing_after_it() -> None:
    async def main() -> None:
        async with serving(latency_s=0.01) as served:
            aborted, other = (served.add([index + 1, 2], 20, ignore_eos=True) for index in range(2))
            while not served.clients.outputs[aborted]:
                await asyncio.sleep(0.001)
            served.engine.abort(aborted)
            assert served.clients.last(aborted).finish_reason is FinishReason.ABORT
            served.engine.abort(aborted)
            served.engine.abort("never seen")
            await served.ended(other)
            served.check(other)
            await until(lambda: served.scheduler.pool.num_free == 64)

    asyncio.run(main())


def test_steps_are_measured_whatever_they_carry() -> None:
    async def main() -> None:
        async with serving() as served:
            ids = [served.add([index + 1] * 9, 5, ignore_eos=True) for index in range(3)]
            for request_id in ids:
                await served.ended(request_id)
            stats = served.engine.stats()
            steps, num_steps = stats.steps, stats.counters.num_steps
            assert steps.rows.count == steps.tokens.count == steps.phases["launch"].count == num_steps
            assert steps.prompt_tokens.total == 27 and max(steps.prompt_tokens.bounds) > 16
            assert steps.tokens.total == 27 + 3 * 4  # the last token of each is sampled, not computed on
            assert steps.step_s.count >= num_steps - 1
            assert stats.graphs.launched["mixed"] == len(served.executor.plans)

    asyncio.run(main())


def test_only_work_in_vain_is_wasted() -> None:
    async def main() -> None:
        async with serving(latency_s=0.005) as served:
            complete, vain = (served.add([index + 1, 2], 20, ignore_eos=True) for index in range(2))
            while len(served.clients.outputs[vain]) < 3 or len(served.clients.outputs[complete]) < 3:
                await asyncio.sleep(0.001)
            served.engine.abort(complete, FinishReason.STOP)
            assert served.engine.stats().counters.aborted_tokens == 0
            served.engine.abort(vain)
            assert 4 <= served.engine.stats().counters.aborted_tokens <= 7
            while served.engine.stats().num_running or served.scheduler.pool.num_free != 64:
                await asyncio.sleep(0.005)
            freed_s = served.engine.stats().counters.abort_to_free_s
            assert freed_s.count == 1 and freed_s.total < 5

    asyncio.run(main())


def test_a_refused_request_disturbs_nobody() -> None:
    async def main() -> None:
        async with serving(num_blocks=4) as served:
            accepted = served.add([1, 2, 3])
            with pytest.raises(CapacityError):
                served.add([1] * 20, 20)
            await served.ended(accepted)
            served.check(accepted)

    asyncio.run(main())


@pytest.mark.parametrize("overlap", [True, False])
def test_a_device_that_fails_ends_every_request_with_the_cause(overlap: bool) -> None:
    async def main() -> None:
        served = Served(overlap=overlap, fail_at_step=3)
        ids = [served.add([index + 1, 2], 20, ignore_eos=True) for index in range(7)]
        with pytest.raises(DeviceError, match="step 3 failed"):
            await served.engine.run()
        for request_id in ids:
            last = served.clients.last(request_id)
            assert last.finish_reason is FinishReason.ERROR
            assert last.error is not None and "step 3 failed" in last.error
        assert served.executor.closed

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_arrivals_and_aborts_at_any_moment(seed: int) -> None:
    rng = random.Random(seed)

    async def client(served: Served, aborted: set[str]) -> None:
        for _ in range(6):
            await asyncio.sleep(rng.uniform(0, 0.01))
            prompt = [rng.randint(1, 2) for _ in range(rng.randint(1, 30))]
            request_id = served.add(prompt, rng.randint(1, 20))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0, 0.01))
                if not served.clients.ended[request_id].is_set():
                    aborted.add(request_id)
                served.engine.abort(request_id)
            await served.ended(request_id)

    async def main() -> None:
        # 13 blocks of 4 hold one longest request: most runs preempt.
        async with serving(num_blocks=13, latency_s=lambda plan: rng.uniform(0, 0.002)) as served:
            aborted: set[str] = set()
            await asyncio.gather(*(client(served, aborted) for _ in range(8)))
            for request_id in served.requests:
                if request_id in aborted:
                    assert served.clients.last(request_id).finish_reason is FinishReason.ABORT
                else:
                    served.check(request_id)
            await until(lambda: served.scheduler.pool.num_free == 13)
            served.scheduler.check()

    asyncio.run(main())
