"""The pictures of a running robot: what they name is what a real node publishes, offers and calls itself."""

from __future__ import annotations

import ast
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_policy.fields import message_class
from graph import ALL, CONTRACT, driving, wait
from layout_formats import FOXGLOVE, PLUGINS, SCRIPTED, columns_of, leaves, matches, path_values
from std_srvs.srv import Trigger

PACKAGE = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy"
LAYOUTS = PACKAGE / "layouts"
NODE = "/dipole_policy"
OMEGAS = [0.0, 0.5, 1.0, 2.0, 4.0]


@dataclass
class Seen:
    """What a node with the default name shows: types of its topics, one message of each, its services' types."""

    types: dict[str, str] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    messages: dict[str, Any] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def seen(ros: None, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The node drives in a namespace of its own, which is then taken away from every name."""
    contract = tmp_path_factory.mktemp("contract") / "contract.yaml"
    contract.write_text(CONTRACT)
    found = Seen()
    with driving(bundle, contract, shadow_omegas=OMEGAS) as (node, robot):
        inside = robot.namespace

        def note(topic: str) -> Callable[[Any], None]:
            def keep(message: Any) -> None:
                # Other tests' nodes may speak there, too.
                if topic != "/diagnostics" or inside in message.status[0].name:
                    found.messages[topic] = message

            return keep

        def plain(name: str) -> str:
            return name.removeprefix(inside)

        for name, types in robot.node.get_topic_names_and_types():
            if name.startswith(f"{inside}{NODE}/") or name == "/diagnostics":
                found.types[plain(name)] = types[0]
                robot.node.create_subscription(message_class(types[0]), name, note(plain(name)), ALL)
        for name, types in robot.node.get_service_names_and_types():
            found.services[plain(name)] = types[0]
        found.parameters = set(node._parameters)
        watched = {f"{NODE}/{name}" for name in ("driven", "shadow", "latency", "omega", "audit")} | {"/diagnostics"}

        def complete() -> bool:
            robot.turn(1.0)
            return watched <= set(found.messages)

        wait(complete, "a message on every topic")
        # Sent once, when the node was configured.
        found.messages[f"{NODE}/model_info"] = robot_model(robot)
    for topic in ("/diagnostics", f"{NODE}/audit"):
        for status in found.messages[topic].status:
            status.name = status.name.replace(inside, "")
    return found


def robot_model(robot: Any) -> Any:
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    return DiagnosticStatus(values=[KeyValue(key=key, value=value) for key, value in robot.model[-1].items()])


def label(seen: Seen, topic: str, index: int) -> str:
    """The column's name in the message's own layout."""
    message = seen.messages[topic]
    return columns_of(message)[index % len(columns_of(message))]


# ---- Foxglove


@pytest.fixture(scope="module")
def foxglove() -> dict[str, Any]:
    layout: dict[str, Any] = json.loads((LAYOUTS / "foxglove.json").read_text())
    return layout


def panels(layout: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: config for name, config in layout["configById"].items() if name.split("!")[0] == kind}


def test_foxglove_every_panel_of_the_tree_is_configured_and_shown_once(foxglove: dict[str, Any]) -> None:
    assert set(foxglove) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    shown = list(leaves(foxglove["layout"]))
    for name in list(shown):
        if name.startswith("Tab!"):
            tabs = foxglove["configById"][name]["tabs"]
            assert 0 <= foxglove["configById"][name]["activeTabIdx"] < len(tabs)
            shown += [inner for tab in tabs for inner in leaves(tab["layout"])]
    assert sorted(shown) == sorted(foxglove["configById"])
    assert len(set(shown)) == len(shown)


def test_foxglove_panels_have_the_fields_of_their_kind(foxglove: dict[str, Any]) -> None:
    kinds = {name.split("!")[0] for name in foxglove["configById"]}
    assert kinds == set(FOXGLOVE), "every kind that is described is used, and no other"
    for name, config in foxglove["configById"].items():
        for key, value in config.items():
            accepts = FOXGLOVE[name.split("!")[0]].get(key)
            assert accepts is not None, f"{name} has the unknown field {key}"
            assert accepts(value), f"{name}: {key} is {value!r}"


def test_foxglove_plots_what_the_node_publishes(foxglove: dict[str, Any], seen: Seen) -> None:
    drawn = {}
    for name, config in panels(foxglove, "Plot").items():
        for series in config["paths"]:
            if series["enabled"] and not series["value"].startswith("/foxglove_script/"):
                values = path_values(series["value"], seen.messages)
                assert values, f"{name}: nothing at {series['value']}"
                assert all(isinstance(float(value), float) for value in values), series["value"]
            drawn[series["value"]] = series["label"]
    columns = {
        "driven.data[2]": "omega",
        "driven.data[3]": "q",
        "driven.data[4]": "joint_0",
        "driven.data[5]": "joint_1",
        "latency.data[0]": "inference_s",
        "latency.data[1]": "command_s",
        "latency.data[2]": "period_s",
    }
    for path, column in columns.items():
        topic, index = path.split(".data")
        assert f"{NODE}/{path}" in drawn
        assert label(seen, f"{NODE}/{topic}", int(index[1:-1])) == column
    numbered = [int(found[1]) for path in drawn if (found := re.fullmatch(rf"{NODE}/driven\.data\[(\d+)\]", path))]
    assert sorted(numbered) == list(range(2, 10)), "six elements of actions, of which two are switched on"


def test_foxglove_shows_the_requested_omega(foxglove: dict[str, Any], seen: Seen) -> None:
    paths = [series["value"] for series in foxglove["configById"]["Plot!omega"]["paths"]]
    values = [path_values(path, seen.messages) for path in paths]
    assert [float(one[0]) for one in values] == [1.0, 1.0, 1.0]
    (key,) = re.findall(r'key=="(\w+)"', " ".join(paths))
    assert key == "new"


def test_foxglove_script_turns_rows_into_columns(foxglove: dict[str, Any], seen: Seen) -> None:
    (script,) = foxglove["userNodes"].values()
    source = script["sourceCode"]
    (topic,) = json.loads(re.search(r"inputs = (\[.*?\]);", source)[1])  # type: ignore[index]
    assert seen.types[topic] == "std_msgs/msg/Float64MultiArray"
    message = seen.messages[topic]
    assert columns_of(message) == ["omega", "q", "distance", "joint_0", "joint_1"]
    assert message.layout.dim[0].label == "shadow_omegas"
    width = len(columns_of(message))
    assert [message.data[row * width] for row in range(len(OMEGAS))] == OMEGAS
    # What the script reads, in its own words.
    for words in ("dim[0].size", "dim[1].size", "dim[1].label", "omega.push(data[start])", "q.push(data[start + 1])"):
        assert words in source
    assert "distance.push(data[start + 2])" in source
    output = re.search(r'output = "(.*?)";', source)[1]  # type: ignore[index]
    used = {
        path
        for config in panels(foxglove, "Plot").values()
        for path in [*(series["value"] for series in config["paths"]), config.get("xAxisPath", {}).get("value", "")]
        if path.startswith("/foxglove_script/")
    }
    names = set(re.findall(r"^  (\w+): ", source.split("type Output = {")[1].split("};")[0], re.MULTILINE))
    assert names == set(SCRIPTED)
    for path in used:
        assert path.startswith(f"{output}.")
        assert path_values(path, {output: SCRIPTED}), path


def test_foxglove_controls(foxglove: dict[str, Any], seen: Seen) -> None:
    for config in panels(foxglove, "Publish").values():
        assert config["datatype"] == seen.types[config["topicName"]] == "std_msgs/msg/Float64"
        value = json.loads(config["value"])
        assert list(value) == ["data"]
        assert -1.0 <= value["data"] <= 4.0, "in every bundle's range, unless exported with another"
    called = {config["serviceName"]: config for config in panels(foxglove, "CallService").values()}
    assert set(called) == {f"{NODE}/reload", f"{NODE}/resume"}
    for name, config in called.items():
        assert seen.services[name] == "std_srvs/srv/Trigger"
        assert set(json.loads(config["requestPayload"])) == set(Trigger.Request.get_fields_and_field_types())


def test_foxglove_other_panels(foxglove: dict[str, Any], seen: Seen) -> None:
    names = {status.name for status in seen.messages["/diagnostics"].status}
    assert {config["selectedName"] for config in panels(foxglove, "DiagnosticStatusPanel").values()} <= names
    for kind in ("DiagnosticStatusPanel", "DiagnosticSummary"):
        for config in panels(foxglove, kind).values():
            assert seen.types[config["topicToRender"]] == "diagnostic_msgs/msg/DiagnosticArray"
    assert "omega" in seen.parameters, "the panel of parameters has it"
    for config in panels(foxglove, "RawMessages").values():
        assert path_values(config["topicPath"], seen.messages)
    (gauge,) = panels(foxglove, "Gauge").values()
    assert path_values(gauge["path"], seen.messages) == [1.0]


# ---- PlotJuggler


@pytest.fixture(scope="module")
def plotjuggler() -> ElementTree.Element:
    return ElementTree.parse(LAYOUTS / "plotjuggler.xml").getroot()


def series_of(messages: dict[str, Any]) -> dict[str, float]:
    """PlotJuggler's names of everything numeric in some messages, and its value."""
    found: dict[str, float] = {}
    for topic, message in messages.items():
        if hasattr(message, "status"):
            for status in message.status:
                place = "/".join(filter(None, [topic, status.hardware_id, status.name]))
                for item in status.values:
                    try:
                        found[f"{place}/{item.key}"] = float(item.value)
                    except ValueError:
                        continue
        elif hasattr(message, "layout"):
            found |= {f"{topic}/data[{index}]": value for index, value in enumerate(message.data)}
        elif hasattr(message, "data"):
            found[f"{topic}/data"] = message.data
    return found


def test_plotjuggler_draws_what_the_node_publishes(plotjuggler: ElementTree.Element, seen: Seen) -> None:
    available = series_of(seen.messages)
    for plot in plotjuggler.iter("plot"):
        for curve in plot.findall("curve"):
            assert re.fullmatch(r"#[0-9a-f]{6}", curve.attrib["color"])
            names = ["curve_x", "curve_y"] if plot.attrib["mode"] == "XYPlot" else ["name"]
            for name in names:
                assert curve.attrib[name] in available, curve.attrib[name]
            assert plot.attrib["mode"] == "XYPlot" or "curve_x" not in curve.attrib


def test_plotjuggler_curves_are_the_columns_that_their_plots_say(plotjuggler: ElementTree.Element, seen: Seen) -> None:
    expected = {
        "omega in force and asked for": {"omega"},
        "driven command": {"joint_0", "joint_1"},
        "value of the driven action": {"q"},
        "inference, observation to command, period (s)": {"inference_s", "command_s", "period_s"},
        "command, element 0: driven, and at each shadow omega": {"joint_0"},
        "command, element 1: driven, and at each shadow omega": {"joint_1"},
        "value at each shadow omega": {"q"},
        "distance from the driven action at each shadow omega": {"distance"},
        "command, element 0, over omega": {"omega", "joint_0"},
        "command, element 1, over omega": {"omega", "joint_1"},
        "value over omega": {"omega", "q"},
    }
    areas = {area.attrib["name"]: area for area in plotjuggler.iter("DockArea")}
    assert set(areas) == set(expected)
    for name, area in areas.items():
        curves = area.findall("plot/curve")
        used = [curve.attrib[key] for curve in curves for key in ("name", "curve_x", "curve_y") if key in curve.attrib]
        places = [found for one in used if (found := re.fullmatch(r"(.*)/data\[(\d+)\]", one))]
        assert {label(seen, found[1], int(found[2])) for found in places} == expected[name], name
        if "shadow" in " ".join(used):
            rows = {int(found[2]) // 5 for found in places if found[1].endswith("shadow")}
            assert rows == set(range(len(OMEGAS))), name


def test_plotjuggler_tree(plotjuggler: ElementTree.Element, seen: Seen) -> None:
    """As the program's own reader walks through it."""
    assert plotjuggler.tag == "root"
    (widget,) = plotjuggler.findall("tabbed_widget")
    assert widget.attrib == {"name": "Main Window", "parent": "main_window"}
    assert int(widget.find("currentTabIndex").attrib["index"]) < len(widget.findall("Tab"))  # type: ignore[union-attr]
    for tab in widget.findall("Tab"):
        containers = tab.findall("Container")
        assert int(tab.attrib["containers"]) == len(containers) == 1
        assert [child.tag for child in containers[0]] == ["DockSplitter"]
    for splitter in plotjuggler.iter("DockSplitter"):
        sizes = [float(size) for size in splitter.attrib["sizes"].split(";")]
        assert len(splitter) == int(splitter.attrib["count"]) == len(sizes)
        assert sum(sizes) == pytest.approx(1.0, abs=1e-4)
        assert splitter.attrib["orientation"] in ("|", "-")
        assert {child.tag for child in splitter} <= {"DockArea", "DockSplitter"}
    for plot in plotjuggler.iter("plot"):
        assert plot.attrib["style"] in ("Lines", "Dots", "LinesAndDots", "Sticks", "Steps", "StepsInv")
        assert plot.attrib["line_width"] in ("1.0", "1.5", "2.0", "3.0")
    topics = plotjuggler.find("Plugins/plugin/selected_topics").attrib["value"].split(";")  # type: ignore[union-attr]
    assert set(topics) <= set(seen.types)
    streamer = plotjuggler.find("previouslyLoaded_Streamer").attrib["name"]  # type: ignore[union-attr]
    assert plotjuggler.find("Plugins/plugin").attrib["ID"] == streamer  # type: ignore[union-attr]


# ---- rqt


@pytest.fixture(scope="module")
def perspective() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((LAYOUTS / "rqt.perspective").read_text())
    return whole


def test_rqt_plugins_are_named_and_set_as_rqt_does(perspective: dict[str, Any]) -> None:
    def check(group: dict[str, Any]) -> None:
        assert set(group) == {"keys", "groups"}
        for value in group["keys"].values():
            assert value["type"] == "repr"
            ast.literal_eval(value["repr"])
        for inner in group["groups"].values():
            check(inner)

    check(perspective)
    manager = perspective["groups"]["pluginmanager"]
    running = ast.literal_eval(manager["keys"]["running-plugins"]["repr"])
    assert set(running) == set(PLUGINS)
    settings = {f"plugin__{name.replace('/', '__')}__{number}": name for name in running for number in running[name]}
    assert set(manager["groups"]) == set(settings)
    for name, group in manager["groups"].items():
        assert set(group["groups"]["plugin"]["keys"]) <= PLUGINS[settings[name]], name


def test_rqt_shows_what_the_node_publishes(perspective: dict[str, Any], seen: Seen) -> None:
    available = series_of(seen.messages)
    for name, group in perspective["groups"]["pluginmanager"]["groups"].items():
        keys = {key: ast.literal_eval(value["repr"]) for key, value in group["groups"]["plugin"]["keys"].items()}
        if name.startswith("plugin__rqt_plot"):
            assert isinstance(keys["topics"], list)
            for topic in keys["topics"]:
                assert topic in available, topic
        if name.startswith("plugin__rqt_reconfigure"):
            assert keys["selected_nodes"] == [NODE]


# ---- the aggregator


def test_the_aggregator_matches_the_nodes_status_and_nothing_else(seen: Seen) -> None:
    content = yaml.safe_load((LAYOUTS / "diagnostics.yaml").read_text())
    parameters = content["analyzers"]["ros__parameters"]
    assert isinstance(parameters.pop("path"), str)
    (policy,) = parameters.values()
    assert policy["type"] == "diagnostic_aggregator/GenericAnalyzer"
    names = [status.name for status in seen.messages["/diagnostics"].status]
    assert names == ["dipole_policy: /dipole_policy"]
    for name in [*names, "dipole_policy: /left/arm_policy"]:
        assert matches(policy, name)
    for name in ["/dipole_policy: omega", "/dipole_policy: model", "joint_limits: /dipole_policy", "base: battery"]:
        assert not matches(policy, name)
    # The aggregator reads these as a double and as a whole number, and ends where they are anything else.
    assert type(policy["timeout"]) is float
    assert type(policy["num_items"]) is int
    assert policy["num_items"] == len(names)
    assert set(policy) == {"type", "path", "find_and_remove_prefix", "timeout", "num_items"}
    period = next(
        node.args[1].value
        for node in ast.walk(ast.parse((PACKAGE / "dipole_policy/parameters.py").read_text()))
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == "diagnostics_period_s"
    )
    assert policy["timeout"] > 2 * period


# ---- the package


def test_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PACKAGE)
    with patch("setuptools.setup") as setup:
        exec(compile((PACKAGE / "setup.py").read_text(), "setup.py", "exec"), {"__name__": "setup"})
    installed = {
        name for folder, files in setup.call_args.kwargs["data_files"] for name in files if "layouts" in folder
    }
    assert installed == {f"layouts/{path.name}" for path in LAYOUTS.iterdir()}
    assert {path.name for path in LAYOUTS.iterdir()} == {
        "diagnostics.yaml",
        "foxglove.json",
        "plotjuggler.xml",
        "rqt.perspective",
    }


def test_the_documentation_says_how_to_open_each() -> None:
    text = (PACKAGE.parents[2] / "docs/ros2.md").read_text().split("## Watching it")[1].split("\n## ")[0]
    for path in LAYOUTS.iterdir():
        assert path.name in text, path.name
