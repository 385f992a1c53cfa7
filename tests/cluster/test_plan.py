"""The simulator of archives: its laws, its price list, and what a run measured in place of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.cluster.plan import MEASURED, STAGES, STARTING, Stage, Workload, plan, simulate, stages_of, with_report
from redline.cluster.prices import BUNDLED, Figure, PriceList
from redline.cluster.report import BatchReport, StageRates
from redline.errors import ConfigError

PRICES = PriceList.read()
HOURS = st.floats(1, 1e5)
CLUSTERS = st.dictionaries(st.sampled_from(sorted(PRICES.machines)), st.integers(1, 12), min_size=1, max_size=3)
SPEEDS = st.floats(10, 10_000)


def stages(**speeds: float) -> dict[str, Stage]:
    return {name: Stage({speeds[name]: 1}) for name in STAGES}


@settings(deadline=None, max_examples=10)
@given(hours=HOURS, machines=CLUSTERS, more=st.integers(1, 5), sound=st.sampled_from(["mp3", "wav", "opus"]))
def test_more_machines_of_a_kind_are_never_slower(
    hours: float, machines: dict[str, int], more: int, sound: str
) -> None:
    archive = Workload(hours, format=sound)
    kind = next(iter(machines))
    fewer, many = (
        simulate(stages_of(archive, counts, PRICES), hours, 0.01)[0]
        for counts in (machines, {**machines, kind: machines[kind] + more})
    )
    assert many <= fewer * 1.01 + 1, "blocks become a little longer or shorter with the number of servers"


@settings(deadline=None, max_examples=10)
@given(hours=st.floats(5_000, 1e5), machines=CLUSTERS)
def test_twice_the_hours_take_about_twice_as_long(hours: float, machines: dict[str, int]) -> None:
    once, twice = (
        simulate(stages_of(Workload(each), machines, PRICES), each, 0.01)[0] - PRICES.start_s.value
        for each in (hours, 2 * hours)
    )
    assert twice == pytest.approx(2 * once, rel=0.03)


@settings(deadline=None, max_examples=10)
@given(speeds=st.fixed_dictionaries(dict.fromkeys(STAGES, SPEEDS)), hours=st.floats(200, 1e4))
def test_a_run_is_as_fast_as_its_slowest_stage_and_no_other_holds_it_up(speeds: dict[str, float], hours: float) -> None:
    slowest, second = sorted(speeds, key=speeds.__getitem__)[:2]
    run_s, busy_s = simulate(stages(**speeds), hours, 0.0)
    assert run_s >= hours * 3600 / speeds[slowest]
    assert run_s == pytest.approx(hours * 3600 / speeds[slowest], rel=0.05)
    assert busy_s == pytest.approx({name: hours * 3600 / speed for name, speed in speeds.items()})
    faster = {
        name: simulate({**stages(**speeds), name: stages(**speeds)[name].doubled()}, hours, 0.0)[0] for name in STAGES
    }
    if speeds[second] > 1.2 * speeds[slowest]:
        assert min(faster, key=faster.__getitem__) == slowest
        assert faster[slowest] < 0.9 * run_s


@pytest.mark.parametrize(
    ("archive", "machines", "bottleneck"),
    [
        (Workload(1e5), {"h100": 4}, "recognize"),
        (Workload(1e5), {"cpu": 20}, "recognize"),
        (Workload(1e5, format="wav", source_gbit_per_s=0.5), {"h100": 4}, "network"),
        (Workload(1e5, mean_minutes=0.05), {"h100": 16}, "driver"),
        (Workload(1), {"h100": 4}, STARTING),
    ],
)
def test_the_bottleneck_is_what_helps_when_there_is_twice_as_much(
    archive: Workload, machines: dict[str, int], bottleneck: str
) -> None:
    outcome = plan(archive, machines, PRICES)
    assert outcome.bottleneck == bottleneck
    others = [hours for name, hours in outcome.if_doubled.items() if name != bottleneck]
    assert all(hours > 0.98 * outcome.run_hours for hours in others)
    assert max(outcome.busy.values()) <= 1
    if bottleneck != STARTING:
        assert outcome.if_doubled[bottleneck] < 0.8 * outcome.run_hours
        assert outcome.busy[bottleneck] == max(outcome.busy.values()) > 0.9


def test_few_cores_beside_a_gpu_make_decoding_the_bottleneck_and_machines_that_only_decode_help() -> None:
    small = replace(PRICES.machines["h100"], cores=6)
    prices = replace(PRICES, machines={**PRICES.machines, "small": small})
    alone, helped = (plan(Workload(1e5), counts, prices) for counts in ({"small": 4}, {"small": 4, "cpu": 4}))
    assert (alone.bottleneck, helped.bottleneck) == ("decode", "recognize")
    assert helped.run_hours < 0.6 * alone.run_hours


def test_what_is_done_twice_and_lost_time_at_the_start_count() -> None:
    archive, machines = Workload(1e4), {"h100": 2}
    outcome = plan(archive, machines, PRICES)
    fluid_h = 1.01 * 1e4 / 4_000 + PRICES.start_s.value / 3600
    assert outcome.run_hours == pytest.approx(fluid_h, rel=0.02)
    lossy = replace(PRICES, retried_share=replace(PRICES.retried_share, value=0.5))
    assert plan(archive, machines, lossy).run_hours == pytest.approx(1.5 * outcome.run_hours, rel=0.03)


def test_rent_and_reading_are_paid_for() -> None:
    prices = replace(PRICES, euros_per_gb_read=Figure(0.1, "assumed", "", ""))
    free, paid = (plan(Workload(1e4), {"h100": 2}, each) for each in (PRICES, prices))
    assert free.euros == pytest.approx(2 * free.run_hours * 3.99 / 1.1761)
    assert paid.euros - free.euros == pytest.approx(0.1 * 1e4 * 3600 * 128_000 / 8 / 1e9)


def report(**values: object) -> BatchReport:
    rates = StageRates(
        decode_cpu_s_per_audio_hour=20.0,
        recognize_s_per_audio_hour=60.0,
        write_s_per_recording=0.01,
        driver_s_per_recording=0.001,
        read_bytes=5_760_000_000,
    )
    known = {"recordings": 400, "done": 400, "failed": 0, "audio_hours": 100.0, "recognized": 400}
    known |= {"recognized_hours": 100.0, "wall_s": 3000.0, "machines": 1, "decode_workers": 1, "recognize_workers": 2}
    return BatchReport(engine="ray", model="tiny", source="s", rates=rates, **{**known, **values})  # type: ignore[arg-type]


def test_what_a_run_measured_counts_in_place_of_the_price_list() -> None:
    prices = with_report(PRICES, report(price_per_machine_hour=2.0), "report.json", "2026-01-01")
    outcome = plan(Workload(100, 15, model="tiny"), {MEASURED: 1}, prices)
    # Two workers at 60 x are 100 hours in 50 minutes, and the start.
    assert outcome.run_hours == pytest.approx((1.01 * 3000 + PRICES.start_s.value) / 3600, rel=0.02)
    assert outcome.euros == pytest.approx(2 * outcome.run_hours)
    named = {name for name, figure in outcome.figures.items() if figure.source == "report.json"}
    assert named >= {"decode_cpu_s_per_audio_hour", "driver_s_per_recording", f"{MEASURED}.recognize_x", "kbit_per_s"}
    assert outcome.figures["kbit_per_s"].value == pytest.approx(128)
    late = replace(report(), rates=replace(report().rates, start_s=600.0))
    prices = with_report(PRICES, late, "report.json", "2026-01-01")
    later = plan(Workload(100, 15, model="tiny"), {MEASURED: 1}, prices)
    assert later.run_hours - outcome.run_hours == pytest.approx((600 - PRICES.start_s.value) / 3600)
    assert plan(Workload(1e5), {"h100": 1}, prices).figures["start_s"] == PRICES.start_s, "of other machines it is not"
    assert plan(Workload(1e5), {"h100": 1}, prices).figures["h100.recognize_x"].status == "computed"
    with pytest.raises(ConfigError, match="recognized nothing"):
        with_report(PRICES, replace(report(), rates=StageRates()), "report.json", "2026-01-01")


def test_a_process_without_ray_does_nothing_beside_recognition() -> None:
    rates = replace(report().rates, start_s=100.0)
    alone = replace(report(recognize_workers=1, wall_s=12_100.0), engine="local", rates=rates)
    prices = with_report(PRICES, alone, "report.json", "2026-01-01")
    # 120 s for an hour of sound, of which 60 are recognition.
    planned = plan(Workload(100, 15, model="tiny"), {MEASURED: 1}, prices)
    assert planned.run_hours == pytest.approx((100 + 1.01 * 12_000) / 3600, rel=0.02)


def test_what_a_run_took_beside_its_stages_is_planned_where_recognition_held_it_up() -> None:
    late = replace(report(wall_s=4_000.0), rates=replace(report().rates, start_s=100.0))
    prices = with_report(PRICES, late, "report.json", "2026-01-01")
    planned = plan(Workload(100, 15, model="tiny"), {MEASURED: 1}, prices)
    assert planned.run_hours == pytest.approx((100 + 1.01 * 3_900) / 3600, rel=0.02), "3000 s of recognition"
    reading = replace(late, rates=replace(late.rates, decode_cpu_s_per_audio_hour=80.0))
    prices = with_report(PRICES, reading, "report.json", "2026-01-01")
    planned = plan(Workload(100, 15, model="tiny"), {MEASURED: 1}, prices)
    assert planned.bottleneck == "decode" and planned.figures[f"{MEASURED}.recognize_x"].value == 120


@pytest.mark.parametrize(
    ("archive", "machines", "message"),
    [
        (Workload(0), {"h100": 1}, "more than 0"),
        (Workload(1), {}, "no machines"),
        (Workload(1), {"h900": 1}, "no machine is called h900; the prices have a100, cpu"),
        (Workload(1, format="ogg"), {"h100": 1}, "--format ogg: .* flac, m4a, mp3"),
        (Workload(1, model="whisper"), {"h100": 1}, "how fast whisper is on h100 .* have 2b-nar; add it"),
    ],
)
def test_what_cannot_be_planned_is_refused(archive: Workload, machines: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(archive, machines, PRICES)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("dollars_per_euro", "dollars_per_pound", "dollars_per_pound is no key"),
        (
            'status = "listed", source = "ECB',
            'status = "known", source = "ECB',
            "status of dollars_per_euro is 'known'",
        ),
        ("value = 2000", "value = -1", "h100.recognize_x.* is -1"),
        ("value = 2000", "value = true", "h100.recognize_x.* is True"),
        ("gpus = 0\ncores = 16", "gpus = 0\ncores = 1", "machine.cpu needs gpus"),
        ("[machine.cpu.recognize_x]", "[machine.cpu.other]", "recognize_x.* is missing"),
        ("dollars_per_euro = {", "dollars_per_euro = ", "cannot be read as prices"),
    ],
)
def test_a_price_list_that_is_wrong_is_refused_by_its_key(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    text = BUNDLED.read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "mine.toml").write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        PriceList.read(tmp_path / "mine.toml")
    with pytest.raises(ConfigError, match="no such file"):
        PriceList.read(tmp_path / "none.toml")


def test_every_number_of_the_bundled_prices_has_its_origin() -> None:
    outcome = plan(Workload(1e5), dict.fromkeys(PRICES.machines, 1), PRICES)
    assert len(outcome.figures) > 15
    assert all(figure.source and len(figure.date) == 10 for figure in outcome.figures.values())
    assert json.loads(json.dumps(outcome.to_dict()))["bottleneck"] == "recognize"
