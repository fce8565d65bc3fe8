import json

MODEL = "bundled:encoder"


def test_every_criterion_stands_beside_every_repair_and_random_draws(deadhead, tmp_path):
    data = ("-t", "bundled:sentiment", "--calibration-size", "32", "--test-size", "32")
    methods = ("-c", "taylor,reconstruction", "--repair", "none,least_squares", "--random", "2")
    found = deadhead("compare", MODEL, *data, *methods, "--heads", "50%", "-o", "out", "--json")
    assert found.code == 0, found.err
    lines = {row["method"]: row for row in found.json["lines"]}
    names = ("taylor", "greedy reconstruction", "random heads")
    wanted = {"dense", *names, *(f"{name} + least_squares" for name in names)}
    assert set(lines) == wanted
    assert {row["heads_dropped"] for name, row in lines.items() if name != "dense"} == {12}
    assert lines["random heads"]["draws"] == 2
    assert len(json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]) == 9


def test_a_plan_with_a_repair_needs_data_to_be_applied(deadhead):
    data = ("-t", "bundled:sentiment", "--calibration-size", "32")
    assert deadhead("plan", MODEL, *data, "--heads", "3").code == 0
    assert "needs calibration data; give --calibration" in deadhead("apply", MODEL).refused()
    assert deadhead("apply", MODEL, *data, "-o", "cut").code == 0
    assert deadhead("apply", MODEL, "--repair", "none", "-o", "plain").code == 0
