"""The page of costs: up to date, and each number by the formula that the page states, computed again by hand."""

from dataclasses import fields, replace

import pytest

from benchmarks.cost_page import (
    CORES_A_GPU,
    SOURCES,
    Assumptions,
    Measured,
    egoexo_steps,
    main,
    site_step,
    tables,
)

M = Measured(1.0, 2.0, 36.0, 0.5, 7.2, 8.4, 5.0, 3.6, "machine")


def test_the_page_is_up_to_date(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_each_step_follows_the_formula():
    a = Assumptions(takes=10, frames=5, cameras=2, gpu_ratio=10, gpus=4, efficiency=0.5, gpu_price=3, pairs=20,
                    train_takes=5, train_pairs=8, train_fraction=0.5, epochs=3)  # fmt: skip
    steps = {step.name.split()[0]: step for step in egoexo_steps(M, a)}
    features = steps["features,"]
    assert features.count == 100
    assert features.core_hours() == pytest.approx(100 * 36 / 3600)
    assert features.wall_hours(a, 1) == pytest.approx(1 / 10)
    assert features.wall_hours(a, 4) == pytest.approx(1 / 10 / (4 * 0.5))
    assert features.price(a, 4) == pytest.approx(0.05 * 4 * 3)
    assert steps["prepare"].wall_hours(a, 1) == pytest.approx(100 / 3600 / CORES_A_GPU)
    assert steps["train"].count == 5 * 8 * 0.5 * 3 * 2
    site = site_step(M, replace(a, site_cameras=2, site_fps=0.5, active=0.25))
    assert site.core_hours() == pytest.approx(8760 * 2 * 0.5 * 0.25 * 3.6)


def test_a_reader_puts_in_other_numbers(capsys):
    assert main(["--show", "--takes", "300", "--gpus", "32"]) == 0
    shown = capsys.readouterr().out
    assert "32 GPUs, h" in shown
    assert "72,000 images" in shown  # 300 takes, 60 frames, 4 cameras
    assert tables(M, Assumptions())[0] != shown.splitlines()[0]
    with pytest.raises(SystemExit):
        main(["--takes", "300"])


def test_each_number_has_a_source():
    assert set(SOURCES) == {f.name for f in fields(Assumptions)}
