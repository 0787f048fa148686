import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from pipeline.report.svg import Box, bar, interval_plot, nice_ticks, place_labels, trade_off_plot


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def rows(build_metric):
    return [
        ("original", build_metric(value=0.97, world="clean"), "clean"),
        ("original", build_metric(value=0.41), "attacked"),
        ("rr_clarc", build_metric(value=0.96, world="clean"), "clean"),
        ("rr_clarc", build_metric(value=0.95), "attacked"),
    ]


def circles_x(svg: ElementTree.Element) -> dict[str, float]:
    """Return the tip of every circle of the plot and its x; the legend's tips hold no figures."""
    found = {circle.findtext("title"): float(circle.get("cx")) for circle in svg.iter("circle")}
    return {tip: x for tip, x in found.items() if tip and "0." in tip}


def test_interval_plot_has_an_accessible_title_and_every_label_and_figure(build_metric):
    svg = parse(interval_plot(rows(build_metric), title="Accuracy <all>", axis_label="accuracy"))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == svg.find("title").text == "Accuracy <all>"
    texts = [text.text for text in svg.iter("text")]
    for word in ("original", "rr_clarc", "clean", "attacked", "accuracy", "0.970", "0.410", "0.950"):
        assert word in texts


def test_dots_stand_on_one_linear_axis_with_the_ticks(build_metric):
    values = [0.2, 0.5, 0.9]
    plotted = [(f"m{index}", build_metric(value=value, half=0.01), "clean") for index, value in enumerate(values)]
    svg = parse(interval_plot(plotted, title="t", axis_label="a"))
    x = [x for _, x in sorted(circles_x(svg).items())]
    assert (x[1] - x[0]) / 0.3 == pytest.approx((x[2] - x[1]) / 0.4, rel=0.01)
    ticks = {text.text: float(text.get("x")) for text in svg.iter("text") if re.fullmatch(r"0\.\d", text.text)}
    assert x[1] == pytest.approx((ticks["0.4"] + ticks["0.6"]) / 2, abs=0.2)


def test_the_reference_line_stands_at_the_value_of_the_original(build_metric):
    references = {"clean": 0.97}
    svg = parse(interval_plot(rows(build_metric), title="t", axis_label="a", references=references))
    lines = [line for line in svg.iter("line") if line.find("title") is not None]
    assert [line.findtext("title") for line in lines] == ["original, clean: 0.970"]
    original = next(x for tip, x in circles_x(svg).items() if tip.startswith("original"))
    assert float(lines[0].get("x1")) == float(lines[0].get("x2")) == pytest.approx(original)


def test_groups_differ_in_shape_and_not_in_colour_alone(build_metric):
    svg = parse(interval_plot(rows(build_metric), title="t", axis_label="a"))
    tips = {
        tag: [e.findtext("title") for e in svg.iter(tag) if e.find("title") is not None] for tag in ("circle", "path")
    }
    assert all("clean" in tip for tip in tips["circle"])
    assert all("attacked" in tip for tip in tips["path"])


def test_what_is_not_finite_is_written_in_words_and_never_drawn(build_metric):
    nan = build_metric(value=0.5).model_copy(update={"value": math.nan, "lower": math.nan, "upper": math.nan})
    no_interval = build_metric(value=0.5).model_copy(update={"lower": math.nan, "upper": math.nan})
    text = interval_plot([("a", nan, "clean"), ("b", no_interval, "clean")], title="t", axis_label="a")
    assert "clean: not measured" in text
    assert "0.500" in text
    coordinates = re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|d)="([^"]*)"', text)
    assert coordinates and not any("nan" in value for value in coordinates)
    parse(text)


def test_labels_are_escaped_and_long_ones_shortened_but_still_readable(build_metric):
    name = "<script>" + "x" * 60
    text = interval_plot([(name, build_metric(), "clean")], title="t", axis_label="a")
    assert "<script>" not in text
    assert name in [title.text for title in parse(text).iter("title")]


def test_no_rows_are_still_a_picture():
    parse(interval_plot([], title="t", axis_label="a"))
    parse(trade_off_plot([], title="t"))


def test_trade_off_plot_has_one_labelled_point_per_model_in_the_right_place(build_metric):
    points = [
        ("original", build_metric(value=0.97), build_metric(value=0.41)),
        ("worse", build_metric(value=0.90), build_metric(value=0.50)),
        ("better", build_metric(value=0.96), build_metric(value=0.95)),
    ]
    svg = parse(trade_off_plot(points, title="t", best="better"))
    assert {"original", "worse", "better"} <= {text.text for text in svg.iter("text")}
    place = {
        circle.findtext("title").split(":")[0]: (float(circle.get("cx")), float(circle.get("cy")))
        for circle in svg.iter("circle")
        if circle.find("title") is not None
    }
    assert set(place) == {"worse", "better"}  # the original is a diamond
    assert place["better"][0] > place["worse"][0]
    assert place["better"][1] < place["worse"][1]


def test_points_with_a_number_show_it_and_tell_their_name_when_pointed_at(build_metric):
    points = [(name, build_metric(value=0.9), build_metric(value=0.5)) for name in ("original", "first", "second")]
    svg = parse(trade_off_plot(points, title="t", names={"first": "1", "second": "2"}))
    texts = {text.text: text.findtext("title") for text in svg.iter("text")}
    assert {"original", "1", "2"} <= texts.keys() and not {"first", "second"} & texts.keys()
    assert (texts["1"], texts["2"], texts["original"]) == ("first", "second", None)


def test_numbers_of_twenty_six_points_cover_neither_each_other_nor_a_point(build_metric):
    points = [
        (f"m{i}", build_metric(value=0.9 + 0.003 * (i % 6)), build_metric(value=0.95 - 0.004 * (i % 7)))
        for i in range(26)
    ]
    svg = parse(trade_off_plot(points, title="t", names={f"m{i}": str(i) for i in range(26)}))
    boxes = [
        Box(float(text.get("x")) - 2, float(text.get("y")) - 12, float(text.get("x")) + 14, float(text.get("y")) + 4)
        for text in svg.iter("text")
        if text.find("title") is not None
    ]
    assert len(boxes) == 26
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_model_without_figures_is_named_below_the_trade_off_plot(build_metric):
    nan = build_metric().model_copy(update={"value": math.nan})
    text = trade_off_plot([("a", build_metric(), build_metric()), ("lost", build_metric(), nan)], title="t")
    assert "not measured: lost" in text


@pytest.mark.parametrize("spread", [0.0, 3.0, 40.0])
def test_labels_cover_neither_each_other_nor_points(spread):
    area = Box(60, 10, 600, 400)
    centers = [(500 + spread * math.cos(index), 60 + spread * math.sin(index)) for index in range(14)]
    labels = [f"method_{index}" * (1 + index % 2) for index in range(14)]
    boxes = place_labels(centers, labels, area)
    assert all(box.inside(area) for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for x, y in centers:
        assert not any(box.overlaps(Box(x - 1, y - 1, x + 1, y + 1)) for box in boxes)


def test_a_label_avoids_a_line_when_it_can():
    area = Box(0, 0, 400, 400)
    line = Box(0, 199, 400, 201)
    (box,) = place_labels([(200, 200)], ["original"], area, obstacles=[line])
    assert not box.overlaps(line)


@pytest.mark.parametrize("values", [[0.41, 0.97], [0.0, 1.0], [0.951, 0.953], [-3.0, 1200.0], [0.5], [math.nan], []])
def test_ticks_are_round_evenly_spaced_and_enclose_the_values(values):
    ticks = nice_ticks(values)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1
    mantissa = f"{steps.pop():e}".split("e")[0]
    assert float(mantissa) in (1, 2, 5)
    finite = [value for value in values if math.isfinite(value)]
    assert all(ticks[0] <= value <= ticks[-1] for value in finite)
    assert 2 <= len(ticks) <= 9


@pytest.mark.parametrize(("share", "width"), [(0.25, 30), (0, 0), (1.7, 120), (-1, 0), (math.nan, 0)])
def test_a_bar_is_as_long_as_the_share(share, width):
    assert float(parse(bar(share, "t", width=120)).findall("rect")[1].get("width")) == width
