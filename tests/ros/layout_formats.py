"""What the programs that show a running robot accept: fields of panels, paths into messages, rules of matching.

Written after the programs' own sources and types; see "Watching it" in docs/ros2.md for which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Accepts = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def one_of(*values: Any) -> Accepts:
    return lambda value: value in values


def series(value: Any) -> bool:
    fields: dict[str, Accepts] = {
        "value": text,
        "label": text,
        "enabled": flag,
        "color": lambda found: bool(re.fullmatch(r"#[0-9a-f]{6}", found)),
        "timestampMethod": one_of("receiveTime", "headerStamp"),
        "showLine": flag,
    }
    required = {"value", "enabled", "timestampMethod"}
    return required <= set(value) <= set(fields) and all(fields[key](value[key]) for key in value)


_TITLE = {"foxglovePanelTitle": text}
_BUTTON = {"buttonText": text, "buttonTooltip": text, "buttonColor": text}

FOXGLOVE: Mapping[str, Mapping[str, Accepts]] = {
    "Plot": {
        **_TITLE,
        "paths": lambda value: all(map(series, value)),
        "minYValue": number,
        "showLegend": flag,
        "legendDisplay": one_of("floating", "top", "left", "none"),
        "showPlotValuesInLegend": flag,
        "showXAxisLabels": flag,
        "showYAxisLabels": flag,
        "isSynced": flag,
        "xAxisVal": one_of("timestamp", "index", "custom", "currentCustom"),
        "xAxisPath": lambda value: set(value) == {"value", "enabled"} and text(value["value"]),
        "xAxisLabel": text,
        "yAxisLabel": text,
        "followingViewWidth": number,
        "sidebarDimension": number,
    },
    "DiagnosticSummary": {
        "minLevel": one_of(0, 1, 2, 3),
        "pinnedIds": lambda value: all(map(text, value)),
        "topicToRender": text,
        "hardwareIdFilter": text,
        "sortByLevel": flag,
        "secondsUntilStale": number,
    },
    "DiagnosticStatusPanel": {
        "topicToRender": text,
        "selectedName": text,
        "splitFraction": lambda value: 0 < value < 1,
        "secondsUntilStale": number,
    },
    "RawMessages": {
        **_TITLE,
        "topicPath": text,
        "diffEnabled": flag,
        "diffMethod": one_of("custom", "previous message"),
        "diffTopicPath": text,
        "showFullMessageForDiff": flag,
        "expansion": one_of("all", "none"),
    },
    "Gauge": {
        **_TITLE,
        "path": text,
        "minValue": number,
        "maxValue": number,
        "colorMap": one_of("red-yellow-green", "rainbow", "turbo"),
        "colorMode": one_of("colormap", "gradient"),
        "gradient": lambda value: len(value) == 2 and all(map(text, value)),
        "reverse": flag,
    },
    "Publish": {**_TITLE, **_BUTTON, "topicName": text, "datatype": text, "advancedView": flag, "value": text},
    "CallService": {
        **_TITLE,
        **_BUTTON,
        "serviceName": text,
        "requestPayload": text,
        "layout": one_of("vertical", "horizontal"),
    },
    "Parameters": {"title": text},
    "Tab": {"activeTabIdx": number, "tabs": lambda value: all(set(tab) == {"title", "layout"} for tab in value)},
}
"""Kind of panel → its fields, and what each may hold."""

SCRIPTED = {
    "omega": [0.0, 1.0],
    "q": [0.0, 1.0],
    "distance": [0.0, 1.0],
    "action": [{"name": f"element {index}", "values": [0.0, 1.0]} for index in range(6)],
}
"""What the layout's script makes of ~/shadow, for two ω and six elements."""

PLUGINS: Mapping[str, set[str]] = {
    "rqt_plot/Plot": {"autoscroll", "topics", "plot_type", "x_limits", "y_limits"},
    "rqt_reconfigure/Param": {"splitter", "text", "expanded_nodes", "selected_nodes"},
    "rqt_robot_monitor/RobotMonitor": {"splitter"},
    "rqt_topic/TopicPlugin": {"tree_widget_header_state"},
}
"""rqt's plugins → the settings that they restore."""

_ELEMENT = re.compile(
    r"\.(?P<name>\w+)"
    r"(?:\[(?:(?P<index>\d+)|(?P<all>:))\])?"
    r'(?:\{(?P<key>\w+)=="(?P<value>[^"]*)"\})?'
)


def leaves(tree: Any) -> Iterator[str]:
    """The panels of a tree of splits, which it checks."""
    if isinstance(tree, str):
        yield tree
        return
    assert set(tree) == {"direction", "first", "second", "splitPercentage"}
    assert tree["direction"] in ("row", "column")
    assert 0 < tree["splitPercentage"] < 100
    yield from leaves(tree["first"])
    yield from leaves(tree["second"])


def path_values(path: str, messages: Mapping[str, Any]) -> list[Any]:
    """What a Foxglove message path finds: ``/topic.name[index or :]{key=="value"}.name`` …

    :raises AssertionError: the topic is unknown, or the path has another form.
    """
    topic, dot, rest = path.partition(".")
    assert topic in messages, f"no topic {topic}"
    values, place = [messages[topic]], 0
    rest = dot + rest
    while place < len(rest):
        element = _ELEMENT.match(rest, place)
        assert element is not None, f"{path}: {rest[place:]} is no path"
        place = element.end()
        name = element["name"]
        values = [one[name] if isinstance(one, Mapping) else getattr(one, name) for one in values]
        if element["index"] is not None:
            index = int(element["index"])
            values = [one[index] for one in values if index < len(one)]
        elif element["all"]:
            values = [inner for one in values for inner in one]
        if element["key"]:
            values = [one for one in values if getattr(one, element["key"]) == element["value"]]
    return values


def columns_of(message: Any) -> list[str]:
    """The names of the columns of a Float64MultiArray, as its last dimension says."""
    return str(message.layout.dim[-1].label).split(",")


def matches(analyzer: Mapping[str, Any], name: str) -> bool:
    """Whether diagnostic_aggregator's GenericAnalyzer takes a status: GenericAnalyzer::match."""
    starts = [*analyzer.get("find_and_remove_prefix", []), *analyzer.get("startswith", [])]
    return (
        any(re.fullmatch(one, name) for one in analyzer.get("regex", []))
        or name in analyzer.get("expected", [])
        or any(name.startswith(one) for one in starts)
        or any(one in name for one in analyzer.get("contains", []))
    )
