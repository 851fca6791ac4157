from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bulk_jobs import OUTPUTS, client_of, failures_in, files_in, ids, job_of, names_in, rows_in, until, written

from rongcloud_groups import AuthenticationError, GroupClient, TransportError
from rongcloud_groups.bulk import Counts, IterableSource, OutputError, ServiceUnavailable, file_source, open_sink
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.input import Block
from rongcloud_groups.bulk.outage import MAX_HELD_BACK, OutageDetector
from rongcloud_groups.emulator import Emulator, Faults


async def test_only_what_failed_is_noted_and_a_later_run_without_failures_removes_the_note(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(poison={"x7", "x77"})
    output = tmp_path / "out.jsonl"
    source = file_source(written(tmp_path / "ids.txt", *ids(100)))
    report = await job_of(client, source, output).run()
    assert report.counts.failed == 2
    lines = failures_in(output)
    assert [(line["group_id"], line["error"], line["code"], line["attempts"]) for line in lines] == [
        ("x7", "ParameterError", 1002, 1),
        ("x77", "ParameterError", 1002, 1),
    ]
    emulator.service.faults = Faults()
    await job_of(client, source, output).run()
    assert files_in(tmp_path) == ["ids.txt", "out.jsonl"]


@pytest.mark.parametrize("name", OUTPUTS)
async def test_rows_of_retried_ids_are_added_to_the_output(
    name: str, client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(poison={"x7", "x33"})
    output = tmp_path / name
    await job_of(client, IterableSource([*ids(100), "no good"]), output).run()
    before = rows_in(output)
    emulator.service.faults = Faults()
    note = tmp_path / f"{name}.failed.jsonl"
    report = await job_of(client, file_source(note), output, keep=True).run()
    assert report.counts == Counts(3, 0, 2, 0, 1)
    assert rows_in(output)[: len(before)] == before
    assert names_in(output)[len(before) :] == ["x7", "x33"]
    assert len(note.read_text().splitlines()) == 1


async def test_ids_retried_into_a_new_output_are_all_that_it_has(client: GroupClient, tmp_path: Path) -> None:
    for name in OUTPUTS:
        await job_of(client, IterableSource(["x1"]), tmp_path / name, keep=True).run()
        assert names_in(tmp_path / name) == ["x1"]


async def test_a_service_that_is_gone_ends_the_job_and_no_id_counts_as_failed(
    emulator: Emulator, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    # the 11th block of a hundred is half answered
    emulator.service.faults = Faults(at=dict.fromkeys(range(22, 500), "error-500"))
    async with client_of(emulator, rate=300, max_attempts=2) as client:
        with pytest.raises(ServiceUnavailable, match="the service no longer responds"):
            await job_of(client, IterableSource(ids(3000)), output).run()
        saved = open_sink(output).load()
        assert saved is not None
        assert 0 < saved.counts.records < 1100
        emulator.service.faults = Faults()
        report = await job_of(client, IterableSource(ids(3000)), output).run()
    assert report.counts.failed == 0
    assert report.counts.found + report.counts.missing == 3000


async def test_a_service_that_never_responds_leaves_the_old_output_alone(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    async with client_of(emulator, max_attempts=2) as client:
        await job_of(client, IterableSource(ids(10)), output).run()
        before = output.read_bytes()
        emulator.service.faults = Faults(share={"error-500": 1.0})
        with pytest.raises(ServiceUnavailable, match="the service does not respond"):
            await job_of(client, IterableSource(ids(30)), output).run()
    assert output.read_bytes() == before


@pytest.mark.parametrize("count", [30, 2000])
async def test_invalid_ids_are_no_sign_that_the_service_responds(
    count: int, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.service.faults = Faults(share={"error-500": 1.0})
    names = [name for group_id in ids(count) for name in (group_id, f"no good {group_id}")]
    async with client_of(emulator, max_attempts=1) as client:
        with pytest.raises(ServiceUnavailable):
            await job_of(client, IterableSource(names), tmp_path / "out.jsonl").run()
    assert not (tmp_path / "out.jsonl").exists()


def test_blocks_with_single_unanswered_ids_are_held_back_only_so_far_and_stay_in_order() -> None:
    detector = OutageDetector()
    names = ids(5000)
    blocks = [Block(names[first : first + 100], 100, "") for first in range(0, 5000, 100)]
    released: list[Block] = []
    for block in blocks:
        block.outcomes.update(dict.fromkeys(block.group_ids), **{block.group_ids[-1]: TransportError("cut off")})
        released += detector.feed(block)
    assert len(released) == (5000 - MAX_HELD_BACK) / 100
    assert [*released, *detector.finish(any_answered=False)] == blocks


async def test_ids_without_an_outcome_count_as_failed_where_others_have_one(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    async with client_of(emulator, max_attempts=1) as client:

        async def names() -> AsyncIterator[str]:
            for group_id in ids(100):
                yield group_id
            await until(lambda: client.stats().found + client.stats().missing == 100)
            emulator.service.faults = Faults(share={"garbage": 1.0})
            for group_id in ids(50, "z"):
                yield group_id

        report = await job_of(client, IterableSource(names()), output).run()
    assert report.counts.failed == 50
    assert report.complete
    line = failures_in(output)[0]
    assert (line["error"], line["code"]) == ("DecodeError", None)


async def test_single_ids_without_a_readable_response_do_not_end_the_job(emulator: Emulator, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    emulator.service.faults = Faults(share={"garbage": 0.5})
    async with client_of(emulator, max_attempts=1) as client:
        report = await job_of(client, IterableSource(ids(9000)), output).run()
    assert report.counts.records == 9000
    assert 1000 < report.counts.failed < 8000
    assert len(failures_in(output)) == report.counts.failed
    found = names_in(output)
    assert found == sorted(found, key=ids(9000).index)


async def test_an_error_that_is_not_retryable_ends_the_job_and_all_before_it_is_saved(
    client: GroupClient, emulator: Emulator, tmp_path: Path
) -> None:
    async def names() -> AsyncIterator[str]:
        for group_id in ids(500):
            yield group_id
        await until(lambda: client.stats().found + client.stats().missing == 500)
        emulator.service.locked = True
        yield "z"

    output = tmp_path / "out.jsonl"
    with pytest.raises(AuthenticationError):
        await job_of(client, IterableSource(names()), output).run()
    saved = open_sink(output).load()
    assert saved is not None
    assert saved.counts.records == 500


async def test_an_error_of_the_source_is_raised_and_what_came_before_is_saved(
    client: GroupClient, tmp_path: Path
) -> None:
    def names() -> Iterator[str]:
        yield from ids(500)
        raise LookupError("the query ended")

    output = tmp_path / "out.jsonl"
    with pytest.raises(LookupError, match="the query ended"):
        await job_of(client, IterableSource(names()), output).run()
    saved = open_sink(output).load()
    assert saved is not None
    assert saved.counts.records == 500


async def test_an_output_that_fails_is_raised_and_its_last_checkpoint_stands(
    client: GroupClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    write, calls = PartialFile.append, [0]

    def full(self: PartialFile, content: bytes) -> None:
        calls[0] += 1
        if calls[0] == 5:
            write(self, content[:100])
            raise OSError(28, "No space left on device")
        write(self, content)

    monkeypatch.setattr(PartialFile, "append", full)
    with pytest.raises(OSError, match="No space left"):
        await job_of(client, IterableSource(ids(9000)), output).run()
    monkeypatch.setattr(PartialFile, "append", write)
    await job_of(client, IterableSource(ids(9000)), output).run()
    assert names_in(output) == list((await client.get_many(ids(9000))).found)


async def test_a_database_that_fails_keeps_its_last_checkpoint(client: GroupClient, tmp_path: Path) -> None:
    output = tmp_path / "out.db"
    job = job_of(client, IterableSource(ids(9000)), output)
    begin = job._sink.begin

    def small(saved: Any, *, keep: bool) -> None:
        begin(saved, keep=keep)
        job._sink._database.execute("PRAGMA max_page_count = 400")  # type: ignore[attr-defined]

    job._sink.begin = small  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="full"):
        await job.run()
    await job_of(client, IterableSource(ids(9000)), output).run()
    assert sorted(names_in(output)) == sorted((await client.get_many(ids(9000))).found)
