"""Compiled programs are read right, and each budget fails on a program that breaks it."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from knn_ner_jax import sharding
from knn_ner_jax.knn.similarity import products as exact_products
from tools.chips import budgets, compile, costs, measure, page, programs, reading
from tools.chips.__main__ import revision_of, summary
from tools.chips.budgets import Limits
from tools.chips.hlo import UNKNOWN_CYCLES, parse, read_arrays
from tools.chips.target import BadName, OutOfMemory, Target, has_compiler

ROOT = Path(__file__).parent.parent
# Of eight chips: five rounds of tanh([8, 256] @ [256, 256]), its sum over all chips, and as many rounds of the like with one
# row as an argument says.
SAMPLES = {"v5e-8": "v5e_8.hlo", "h200-8": "h200_8.hlo"}
EACH = pytest.mark.parametrize("target", SAMPLES)


def sample(target: str) -> str:
    return (ROOT / "tests" / "hlo" / SAMPLES[target]).read_text(encoding="utf-8")


def loops(text: str) -> list[int | None]:
    program = parse(text)
    return [
        program.trip_count(run.instruction, run.computation)
        for run in program.executed()
        if run.instruction.opcode == "while"
    ]


@EACH
def test_loops_go_round_as_often_as_they_were_written(target: str):
    assert loops(sample(target)) == [5, None]


def test_counting_a_loop_through_agrees_with_the_compiler():
    text = sample("h200-8")
    counted = text.replace('"known_trip_count":{"n":"5"}', "")
    assert counted != text
    assert loops(counted) == loops(text)


@EACH
def test_arithmetic_traffic_and_collectives_are_those_reckoned_by_hand(target: str):
    told = reading.read(parse(sample(target)), Target.parse(target), {"any": (3.0,)})
    estimate = told["estimates"]["any"]
    assert estimate["gflops"] * 1e9 == 5 * 2 * 8 * 256 * 256  # the products with one row are no products of matrices
    assert told["collectives"] == [{"kind": "all-reduce", "number": 1, "mb": 1024e-6}]
    # In each of 5 + 3 rounds the 256 KiB of the right side are read; all else is a tenth of that, some of it on the chip.
    assert 8 * 0.262144 <= estimate["traffic_mb"] <= 1.1 * 8 * 0.262144 + 0.1


def test_cycles_count_as_often_as_loops_go_round_and_unknown_ones_not_at_all():
    def cycles(text: str) -> tuple[float, dict[str, int]]:
        estimate = reading.read(parse(text), Target.parse("v5e-8"), {"any": (3.0,)})["estimates"]["any"]
        return estimate["ms"] * 1e-3 * 1.5e9, estimate["without_estimate"]

    text = sample("v5e-8")
    expected = 5 * (16 + 2781) + 1849 + 3 * (3202 + 1826)
    assert cycles(text)[0] == pytest.approx(expected)
    unknown = text.replace('"estimated_cycles":"1849"', f'"estimated_cycles":"{UNKNOWN_CYCLES}"')
    assert cycles(unknown)[0] == pytest.approx(expected - 1849)
    assert cycles(text)[1] == {"all-reduce": 1}


@EACH
def test_what_is_made_bears_the_line_of_the_package_that_made_it(target: str):
    (product,) = costs.products(parse(sample(target)))
    assert product.line == "knn/sample_program.py:6 product"
    assert product.times == 5
    assert product.instruction.is_highest


def test_a_batch_of_products_is_counted_once_for_each_of_the_batch():
    text = """
ENTRY %main (a: f32[64,2,16,8], b: f32[64,2,8,32]) -> f32[64,2,16,32] {
  %a = f32[64,2,16,8]{3,2,1,0} parameter(0)
  %b = f32[64,2,8,32]{3,2,1,0} parameter(1)
  ROOT %c = f32[64,2,16,32]{3,2,1,0} convolution(%a, %b), window={WINDOW}, dim_labels=01bf_01io->01bf
}
""".replace("WINDOW", "size=64x2 stride=63x1 lhs_dilate=64x2")
    (product,) = costs.products(parse(text))
    assert costs.flops(product) == 2 * 64 * 2 * 16 * 8 * 32


def test_attention_of_cudnn_is_two_products():
    text = """
ENTRY %main (q: bf16[8,128,2,64], k: bf16[8,128,2,64], v: bf16[8,128,2,64]) -> bf16[8,2,128,64] {
  %q = bf16[8,128,2,64]{3,2,1,0} parameter(0)
  %k = bf16[8,128,2,64]{3,2,1,0} parameter(1)
  %v = bf16[8,128,2,64]{3,2,1,0} parameter(2)
  ROOT %a = bf16[8,2,128,64]{3,1,2,0} custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaScaleBiasSoftmax", backend_config={"cudnn_fmha_backend_config": {"fmha_scale": 0.125, "intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["8", "2", "128", "128"], "tuple_shapes": []}}}
}
"""  # noqa: E501
    (attention,) = costs.products(parse(text))
    assert costs.flops(attention) == 2 * (2 * 8 * 2 * 128 * 128 * 64)


def test_tiles_pad_what_is_held():
    (array,) = read_arrays("bf16[3,5,70]{2,1,0:T(8,128)(2,1)}")
    assert (array.num_bytes, array.held_bytes) == (3 * 5 * 70 * 2, 3 * 8 * 128 * 2)


def compiled(function, *arguments) -> str:
    """The text of a program for this machine, as if this file were one of knn/."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return text.replace(str(Path(__file__)), "/src/knn_ner_jax/knn/bad.py")


QUERIES, KEYS = jnp.ones((32, 8)), jnp.ones((4096, 8))
LIMITS = Limits(queries=32, dim=8, shares=(4096,))


def broken(text: str, limits: Limits = LIMITS) -> str:
    return "\n".join(budgets.check(parse(text), limits))


def test_a_program_in_blocks_keeps_all_budgets():
    def best(queries, keys):
        def step(i, best):
            block = jax.lax.dynamic_slice_in_dim(keys, i * 128, 128)
            return jnp.maximum(best, exact_products(queries, block).max(axis=1))

        return jax.lax.fori_loop(0, 32, step, jnp.zeros(32))

    assert broken(compiled(best, QUERIES, KEYS)) == ""


def test_scores_of_all_rows_at_once_break_a_budget():
    text = compiled(lambda queries, keys: jnp.sort(exact_products(queries, keys)), QUERIES, KEYS)
    assert "[queries, rows] of 32 x 4,096: f32[32,4096]" in broken(text)


@pytest.mark.parametrize("shape", [(32, 32, 128), (4, 16, 16, 128)])
def test_scores_of_all_rows_in_another_shape_break_a_budget(shape: tuple[int, ...]):
    def scores(queries, keys):
        return jnp.sort(exact_products(queries, keys).reshape(shape))

    text = compiled(scores, QUERIES, KEYS)
    written = f"f32[{','.join(map(str, shape))}]"
    assert f"[queries, rows] of 32 x 4,096: {written}" in broken(text)
    assert written not in broken(text.replace("/knn/bad.py", "/models/bert.py"))  # activations may be as large


def test_four_bytes_of_each_score_of_a_block_are_not_scores_of_all_rows():
    def _take_groups(queries, keys):
        return jnp.sort(exact_products(queries, keys).reshape(4, 16, 16, 128))

    text = compiled(_take_groups, QUERIES, KEYS)
    assert "f32[4,16,16,128]" not in broken(text)
    assert "f32[4,16,16,128]" in broken(text.replace("_take_groups", "take_others"))


def test_a_copy_of_all_keys_breaks_a_budget():
    text = compiled(lambda queries, keys: (exact_products(queries, keys[:64]), keys.astype(jnp.bfloat16)), QUERIES, KEYS)
    assert "as large as the chip's 4,096 keys: bf16[4096,8]" in broken(text)


def test_the_source_of_a_copy_is_not_held_twice():
    text = """HloModule one, entry_computation_layout={(f32[4096,32]{1,0})->f32[128,32]{1,0}}

ENTRY %main (param: f32[4096,32]) -> f32[128,32] {
  %param = f32[4096,32]{1,0} parameter(0)
  %bitcast = s8[524288]{0} bitcast(%param)
  %start = ((s8[524288]{0}), s8[16384]{0}, s32[]) slice-start(%bitcast), slice={[0:16384]}
  %done = s8[16384]{0} slice-done(%start)
  ROOT %result = f32[128,32]{1,0} bitcast(%done)
}
"""
    assert "[queries, rows]" not in broken(text)
    assert "[queries, rows] of 32 x 4,096: s8[524288]" in broken(text.replace("slice-start", "convert"))


def test_float64_breaks_a_budget():
    with jax.enable_x64(True):
        text = compiled(lambda x: x * 2.0, jnp.ones(3, jnp.float64))
    assert "float64" in broken(text, Limits())


def test_waiting_for_the_host_breaks_a_budget():
    def ask(x):
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert "host transfer" in broken(compiled(ask, jnp.ones(3)), Limits())


@EACH
@pytest.mark.parametrize(("old", "new"), [("operand_precision={highest,highest}, ", ""), ("f32[", "bf16[")])
def test_scores_below_float32_accuracy_break_a_budget(target: str, old: str, new: str):
    text = sample(target)
    assert broken(text, LIMITS._replace(shares=())) == ""
    assert "below the highest precision (knn/sample_program.py:6 product)" in broken(text.replace(old, new))


def test_a_search_without_a_product_to_judge_breaks_a_budget():
    assert "no product of queries and keys" in broken(compiled(jnp.sin, KEYS))


@EACH
def test_a_gather_in_a_loop_of_its_own_breaks_a_budget(target: str):
    text = sample(target).replace('op_name="jit(sample)/while"', 'op_name="jit(sample)/vmap()/gather"')
    assert "a gather that takes one element after another (knn/sample_program.py" in broken(text, Limits())


def test_a_sort_of_a_whole_block_breaks_a_budget():
    text = compiled(partial(jax.lax.sort, dimension=1), jnp.ones((2, budgets.BLOCK_ROWS)))
    assert "a sort of a whole block" in broken(text, Limits())


def test_what_the_compiler_finds_no_room_for_breaks_a_budget(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_, **__):
        raise OutOfMemory("Ran out of memory in memory space hbm.\nIt would take more.")

    monkeypatch.setattr(compile, "compile_for", refuse)
    monkeypatch.setattr(Target, "mesh", lambda _: sharding.make_mesh(1))
    what = Target.parse("v5e-1"), "batch_keys-tiny-8x32", None
    assert compile.describe(*what)["broken"] == ["does not fit: Ran out of memory in memory space hbm."]
    monkeypatch.setattr(programs, "TOO_LARGE", {"v5e-1/batch_keys-tiny-8x32"})
    assert compile.describe(*what)["broken"] == []


def test_what_jaxlib_cannot_print_is_told_and_breaks_no_budget(monkeypatch: pytest.MonkeyPatch):
    def as_text():
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure: async-update\nmore of it")

    sizes = dict.fromkeys((f"{name}_size_in_bytes" for name in ("argument", "output", "alias", "temp")), 3_000_000)
    memory = SimpleNamespace(**sizes)
    program = SimpleNamespace(as_text=as_text, memory_analysis=lambda: memory)
    monkeypatch.setattr(compile, "compile_for", lambda *_, **__: program)
    monkeypatch.setattr(Target, "mesh", lambda _: sharding.make_mesh(1))
    told = compile.describe(Target.parse("v6e-1"), "batch_keys-tiny-8x32", None)
    assert told["broken"] == []
    assert "jax 0.12 can: install that (INTERNAL: RET_CHECK failure: async-update)" in told["unreadable"]
    assert "arguments 3 MB, temporary 3 MB, not readable: jaxlib" in summary(told)
    told |= {"target": "v6e-1", "program": "batch_keys-tiny-8x32", "revision": "aaa"}
    assert "**not readable**" in "\n".join(page.programs_table([[told, told]]))
    results = {("v6e-1", "batch_keys-tiny-8x32"): [told, told]}
    assert "jax 0.12" in "\n".join(page.unreadable_lines(results))
    assert page.broken_lines(results) == ["None.", ""]


def test_more_than_a_chip_has_breaks_a_budget():
    assert budgets.memory(140e9, Target.parse("h200-1").chip.hbm) == []
    assert budgets.memory(142e9, Target.parse("h200-1").chip.hbm) == [
        "does not fit: holds 142,000 MB, expected at most the chip's 141,000 MB"
    ]


def test_programs_that_are_known_not_to_fit_are_among_those_that_are_compiled():
    assert {f"{target}/{spec.name}" for spec, target in programs.choose(full=True)} >= programs.TOO_LARGE


def sharded(function, *specs) -> str:
    mesh = sharding.make_mesh(8)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=jax.P(), check_vma=False)
    return compiled(mapped, *(jnp.ones(8, jnp.int32) for _ in specs))


def rounds_of(rounds):
    def step(state):
        return state[0] + 1, state[1] + jax.lax.psum(state[1], sharding.AXIS)

    return jax.lax.while_loop(lambda state: state[0] < rounds, step, (0, jnp.int32(1)))[1]


def test_collectives_in_a_loop_that_chips_leave_at_different_times_break_a_budget():
    text = sharded(lambda x: rounds_of(x[0]), jax.P(sharding.AXIS))
    limits = Limits(chips=8, divided={"args[0]", "x"})
    assert "collectives in a loop that chips may leave" in broken(text, limits)


def test_collectives_in_a_loop_whose_rounds_all_chips_know_break_none():
    text = sharded(lambda x: rounds_of(jax.lax.psum(x[0], sharding.AXIS)), jax.P(sharding.AXIS))
    assert broken(text, Limits(chips=8, divided={"args[0]", "x"})) == ""


def test_states_of_all_positions_that_travel_break_a_budget():
    text = sharded(
        lambda x: jax.lax.all_gather(x.astype(jnp.float32)[:, None] * jnp.ones((1, 4)), sharding.AXIS), jax.P(sharding.AXIS)
    )
    assert "states of all 8 positions travel" in broken(text, Limits(chips=8, positions=8, dim=4))


def test_a_weight_that_is_compiled_in_breaks_a_budget():
    text = compiled(lambda temperature, knn_weight: temperature * 2.0, 1.0, 2.0)
    assert broken(text, Limits(traced=("temperature", "knn_weight"))) == (
        "knn_weight is compiled in: another value would compile again"
    )


def test_a_state_of_another_type_breaks_a_budget():
    mesh = sharding.make_mesh(8)
    before, after = (
        {"step": SimpleNamespace(shape=(), dtype=dtype, sharding=sharding.replicated(mesh))}
        for dtype in ("int32", "float32")
    )
    assert budgets.changed(before, before) == []
    assert "['step'] changes from" in budgets.changed(before, after)[0]


@pytest.mark.parametrize("name", [spec.name for spec, _ in programs.choose(full=True)[:24]])
def test_programs_have_names_that_say_all(name: str):
    assert programs.Spec.parse(name).name == name


@pytest.mark.parametrize("name", ["v3-8", "v5e-x", "v5e-", "h200-0", "h200--1", ""])
def test_a_target_that_is_none_is_refused(name: str):
    with pytest.raises(BadName, match=f"expected one of v4.* and a number of chips, as v5e-8, got '{name}'"):
        Target.parse(name)


@pytest.mark.parametrize(
    ("name", "expected"), [("v5e-7", r"1, 4, 8.* chips, got 7"), ("h200-12", "a multiple of 8, got 12")]
)
def test_so_many_chips_as_no_machine_has_are_refused(name: str, expected: str):
    with pytest.raises(BadName, match=f"expected .*{expected}"):
        Target.parse(name)


@pytest.mark.parametrize(
    "name",
    ["tag", "tag-base", "tag-base-64x128", "train_step-base-64x128-k8-100", "tag-huge-64x128-k8-100", "tag-base-0x8-k8-9"],
)
def test_a_program_that_is_none_is_refused(name: str):
    with pytest.raises(BadName, match=f"expected JOB-SIZE-BATCHxTOKENS, .*, got '{name}'"):
        programs.Spec.parse(name)


def test_a_revision_is_the_last_that_changed_the_package():
    revision, date = revision_of(ROOT)
    assert len(revision.removesuffix("+changes")) >= 7
    assert date.startswith("20")


def test_estimates_are_for_as_many_rounds_as_there_were():
    loops = [{"ms_a_round": 2.0, "rounds": [3.0, 5.0]}, {"ms_a_round": 10.0, "rounds": [0.0, 1.0]}]
    result = {"fixed_ms": 1.0, "loops": loops}
    assert measure.estimated_ms(result, [4.0, 0.5]) == 1 + 4 * 2 + 0.5 * 10
    assert measure.estimated_ms(result, None) == 1 + 5 * 2 + 1 * 10


@pytest.mark.slow
@pytest.mark.parametrize("spec", programs.TINY, ids=lambda spec: spec.job)
def test_programs_run_on_the_devices_that_are_there(spec: programs.Spec):
    told = measure.measure(spec, sharding.make_mesh(1), "cpu")
    assert len(told["seconds"]) == measure.REPEATS
    # 8 x 32 tokens are 197 words, all of which are looked up, first among the border if there is one. Blocks have 256;
    # those of `tag` wait until one is full.
    first = {"tag": pytest.approx(197 / 256, rel=0.1), "retrieve": 1}
    if spec.job in first:
        assert told["rounds"][0] == first[spec.job]
        assert len(told["rounds"]) == 1 + spec.border
    else:
        assert told["rounds"] is None


@pytest.mark.slow
def test_arguments_take_together_what_the_compiler_says():
    call = programs.make_call(programs.TINY[0], sharding.make_mesh(), "cpu")
    sizes = programs.argument_bytes(call)
    compiled = call.function.lower(*call.arguments, **call.static).compile()
    assert sum(sizes.values()) == compiled.memory_analysis().argument_size_in_bytes
    assert sizes["state.opt_state"] > 2 * sizes["state.params"]  # two moments, and counts
    assert sizes["batch.token_ids"] == 8 * 32 * 4  # a device's share


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v5e-8", "h200-1"])
def test_the_compilers_take_a_tiny_program_and_its_budgets_hold(target: str):
    if not has_compiler(Target.parse(target).chip.platform):
        pytest.skip("needs the compiler of such a chip (make chips installs it)")
    command = [sys.executable, "-m", "tools.chips.compile", target, "predict-tiny-8x32"]
    # The flags of the tests are the CPU compiler's.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["broken"] == []
    assert 0 < told["temporary_mb"] < 100
    # Two layers of 12 h^2 weights, and a head of 9 labels; attention and its softmax are less than a tenth of it.
    dense = 2 * 8 * 32 * (2 * 12 * 128**2 + 9 * 128) / 1e9
    assert dense <= told["estimates"]["any"]["gflops"] <= 1.2 * dense
    assert "temporary" in summary(told)
