"""Which tensors become int8 and which share a scale."""

from __future__ import annotations

import nets

from calib.graph import read_graph
from calib.sites import find_sites


def test_the_halves_of_a_ghost_concat_share_one_scale_with_the_concat() -> None:
    sites = find_sites(read_graph(nets.ghost_net()))
    assert sites.group["one.primary.relu"] == sites.group["one.cheap.relu"] == sites.group["one.cat"]
    assert sites.group["two.primary"] == sites.group["two.cat"] != sites.group["one.cat"]


def test_only_inputs_of_convolutions_and_pools_are_read_as_int8() -> None:
    graph = read_graph(nets.ghost_net())
    sites = find_sites(graph)
    operators = {node.name: node.op for node in graph.nodes}
    assert {operators[name] for name, _ in sites.readers} == {"Conv", "Pool"}
    assert all(name in {n.name for n in graph.weighted if n.op == "Conv"} for name in sites.quantised)


def test_an_addition_keeps_one_convolution_in_the_accumulator() -> None:
    graph = read_graph(nets.residual_net())
    sites = find_sites(graph)
    read = {tensor for name, tensor in sites.readers if name == "Add_joined"}
    assert read == {"cut"}, "the shortcut's convolution is added before it is rounded; the cut concat is stored"
    read = {tensor for name, tensor in sites.readers if name == "Add_total"}
    assert read == {"joined"}
    assert sites.group["cut"] == sites.group["two.cat"] == sites.group["two.primary"]


def test_a_float_layer_reads_float() -> None:
    graph = read_graph(nets.ghost_net())
    sites = find_sites(graph, ["Conv_stem"])
    assert "Conv_stem" not in sites.quantised
    assert graph.input not in sites.group
