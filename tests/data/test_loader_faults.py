"""The loader with bad videos, including those that crash, hang or kill their worker."""

import gc
import os
import signal
import time

import pytest
from broken_videos import ODD
from faulty import loader
from torch.utils.data import DataLoader

from stvit_video.data.decode import open_video
from stvit_video.errors import TransientError, UserError


def samples(batches):
    return [name for batch in batches for name in batch["sample"]]


def indices(batches):
    return [int(index) for batch in batches for index in batch["video_index"]]


def errors(some_loader):
    return {bad.index: bad.error for bad in some_loader.bad_video_log.bad}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_a_bad_video_and_evaluation_leaves_it_out(workers):
    whole = samples(loader({}, workers=workers))
    training = loader({5: "broken", 7: "stop"}, workers=workers)
    batches = list(training)
    assert [len(batch["sample"]) for batch in batches] == [3] * 8
    changed = {(old, new) for old, new in zip(whole, samples(batches), strict=True) if old != new}
    assert {old for old, _ in changed} == {
        "SampleKey(index=5, epoch=0)",
        "SampleKey(index=7, epoch=0)",
    }
    assert set(errors(training)) == {5, 7}
    assert errors(training)[5] == "broken"
    assert "StopIteration" in errors(training)[7]

    evaluation = loader({3: "broken", 4: "stop", 5: "broken", 9: "stop"}, train=False)
    batches = list(evaluation)
    assert len(batches) == 7  # Of eight: all videos of the second batch are bad.
    assert indices(batches) == [i for i in range(24) if i not in (3, 4, 5, 9)]


FATAL = {
    "kill": "killed by SIGKILL (often out of memory)",
    "crash": "killed by SIGSEGV",
    "hang": "took longer than 0.5 s (DATA.DECODE_TIMEOUT)",
}


def test_a_video_that_crashes_its_worker_is_as_bad_as_any_other():
    before = signal.getsignal(signal.SIGCHLD)
    order = [key.index for batch in loader({}).batch_sampler for key in batch]
    # One for each of the first three batches, which three workers load at the same time.
    faults = dict(zip(order[1::3], FATAL, strict=False))
    broken = dict.fromkeys([*faults, 2], "broken")
    training = loader({**faults, 2: "broken"}, workers=3, seconds=0.5)
    for epoch in range(2):  # In the second epoch, the videos are known to be bad.
        expected = loader(broken)
        training.batch_sampler.set_epoch(epoch)
        expected.batch_sampler.set_epoch(epoch)
        began = time.perf_counter()
        assert samples(training) == samples(expected)
    assert time.perf_counter() - began < 4
    assert set(errors(training)) == {*faults, 2}
    assert all(FATAL[fault] in errors(training)[index] for index, fault in faults.items())
    assert {bad.index for bad in training.bad_video_log.bad if bad.crashes_worker} == set(faults)
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_video_whose_worker_is_killed_once_is_not_bad(caplog):
    evaluation = loader({0: "kill once", 4: "hang once"}, train=False, seconds=0.5)
    assert indices(evaluation) == list(range(24))
    assert errors(evaluation) == {}
    retried = [message for message in caplog.messages if message.endswith("; it is retried once")]
    assert [message.partition(":")[0] for message in sorted(retried)] == ["0.mp4", "4.mp4"]


def kill_idle_worker(evaluation):
    """Kill a worker that has read all requested batches."""
    time.sleep(0.5)
    evaluation._workers[0].kill()


def test_a_worker_that_is_killed_between_two_videos_is_replaced(caplog):
    evaluation = loader({}, number=48, train=False, batch_size=1)
    found = []
    for batch in evaluation:
        found += batch["video_index"].tolist()
        if len(found) in (1, 20):
            kill_idle_worker(evaluation)
    assert found == list(range(48))
    assert "died between two videos" in caplog.text
    assert evaluation.bad_video_log.bad == []


def test_workers_that_are_always_killed_end_the_run():
    evaluation = loader({}, number=99, train=False, batch_size=1)
    with pytest.raises(TransientError, match=r"4 times a worker .* died between two videos .*KILL"):
        for _ in evaluation:
            kill_idle_worker(evaluation)


def test_two_workers_that_time_out_at_one_video_are_one_incident(caplog):
    """A video may repeat, for example as the replacement of several others."""
    evaluation = loader({3: "hang once"}, train=False, seconds=1.0)
    evaluation.dataset.hanging = 2
    evaluation._remaining._batch_sampler = [[3], [3], [4]]
    assert [index for batch in evaluation for index in batch["video_index"].tolist()] == [3, 3, 4]
    assert errors(evaluation) == {}
    assert caplog.text.count("it is retried once") == 1


def test_persistent_workers_learn_of_bad_videos_of_other_ranks():
    training = loader({5: "crash later"})
    list(training)
    workers = {worker.pid for worker in training._workers}
    training.bad_video_log.add(
        [training.dataset.bad_video(5, "it crashed there", crashes_worker=True)]
    )
    expected = loader({5: "broken"})
    for each in (training, expected):
        each.batch_sampler.set_epoch(1)
    assert samples(training) == samples(expected)
    assert {worker.pid for worker in training._workers} == workers
    assert int(training.dataset.opened[5]) == 1


def test_a_worker_may_die_before_the_loader_has_started(monkeypatch):
    started = DataLoader.__iter__

    def slow(self):
        items = started(self)
        time.sleep(0.5)
        return items

    monkeypatch.setattr(DataLoader, "__iter__", slow)
    evaluation = loader({0: "kill", 3: "crash"}, train=False)
    assert indices(evaluation) == [i for i in range(24) if i not in (0, 3)]
    assert set(errors(evaluation)) == {0, 3}


def test_evaluation_reads_every_other_video_once():
    evaluation = loader({1: "kill", 5: "crash", 23: "broken"}, train=False)
    assert indices(evaluation) == [i for i in range(24) if i not in (1, 5, 23)]
    assert set(errors(evaluation)) == {1, 5, 23}


def test_a_worker_dies_between_two_epochs():
    """Workers may still be reading batches of an epoch that was abandoned early."""
    training = loader({})
    order = [key.index for batch in training.batch_sampler for key in batch]
    training = loader({order[-1]: "kill"})
    first = next(iter(training))
    time.sleep(0.5)
    training.batch_sampler.set_epoch(0)
    assert samples(training)[:3] == first["sample"]
    assert set(errors(training)) == {order[-1]}


def test_too_many_bad_videos_raise_a_one_line_error():
    within = loader(dict.fromkeys(range(4), "broken"), max_bad=4)
    assert len(samples(within)) == 24
    beyond = loader(dict.fromkeys(range(5), "broken"), max_bad=4)
    with pytest.raises(UserError, match=r"5 of the 24 videos of some\.csv .* is 4: ") as ended:
        list(beyond)
    assert "line 1, 0.mp4: broken" in str(ended.value)
    assert str(ended.value).count("\n") == 0


def test_if_no_bad_video_is_allowed_the_first_crash_stops_the_run():
    with pytest.raises(UserError, match=r"0\.mp4: the worker reading it was killed by SIGKILL"):
        list(loader({0: "kill"}, train=False, max_bad=0))


def test_if_all_videos_are_bad_the_search_for_replacements_ends():
    training = loader(dict.fromkeys(range(24), "broken"), workers=0)
    assert list(training) == []
    assert len(errors(training)) == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_the_fallback_decoder_reads_what_the_first_cannot(workers, caplog):
    faults = {5: "broken", 6: "broken", 7: "stop"}
    evaluation = loader(faults, train=False, workers=workers, fallback={6: "broken"})
    assert indices(evaluation) == [i for i in range(24) if i != 6]
    assert set(errors(evaluation)) == {6}
    assert len(evaluation.bad_video_log.read_by_fallback) == 2
    list(evaluation)
    assert sum("fallback decoder" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_unexpected_exceptions_propagate(workers):
    with pytest.raises(TypeError, match="a defect"):
        list(loader({4: "defect"}, workers=workers))


@pytest.fixture
def decoder_as_garbage(tmp_path):
    """A decoder with threads, in a reference cycle that has not been collected yet."""
    ODD["av1.mp4"][0](tmp_path / "av1.mp4")
    gc.disable()
    reader = open_video(tmp_path / "av1.mp4")
    reader.get_frames([0])
    cycle = [reader]
    cycle.append(cycle)
    del reader, cycle
    yield
    gc.enable()


def test_workers_do_not_collect_the_garbage_of_the_main_process(decoder_as_garbage):
    evaluation = loader({2: "collect"}, train=False, workers=1, seconds=5.0)
    assert indices(evaluation) == list(range(24))


def test_a_worker_crash_between_two_videos_is_blamed_on_no_video():
    evaluation = loader({}, train=False, number=300, workers=1)
    batches = iter(evaluation)
    next(batches)
    time.sleep(0.5)  # The worker now waits for the next request.
    os.kill(evaluation._workers[0].pid, signal.SIGSEGV)
    with pytest.raises(UserError, match="died between two videos"):
        list(batches)
