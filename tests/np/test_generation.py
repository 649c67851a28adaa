"""Generation: its results, batches of prompts of different lengths, texts longer than the context, stopping and errors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from minigpt import GPT
from minigpt.np import generation
from minigpt.np.context import Context
from minigpt.np.generation import GenerationStep, StopCondition
from minigpt.np.kv_cache import KVCache
from minigpt.np.parameters import Parameters
from minigpt.np.sampling import Sampling
from minigpt.np.workspace import Array

MakeModel = Callable[..., GPT]
TOLERANCES = pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-10)], ids=["float32", "float64"])
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 9, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1}
SAMPLING = pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])

CONTEXT = 16  # context_length of the models in this file
ROPE: dict[str, Any] = {
    "positions": "rope",
    "n_kv_heads": 1,
    "qk_norm": True,
    "attention_bias": False,
    "feed_forward_bias": False,
}
LENGTHS = [1, 7, CONTEXT, 30, 12, 7]  # with 8 new tokens, the fifth row becomes longer than the context


def prompts(lengths: Sequence[int], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 13, n) for n in lengths]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that receives the number of sequences and of tokens in each, for every forward pass of generation."""
    shapes: list[tuple[int, int]] = []
    forward, reserve = generation.forward, KVCache.reserve

    def record_forward(tokens: Array, p: Parameters, ctx: Context) -> Any:
        if ctx.kv_cache is None:
            shapes.append(tokens.shape)
        return forward(tokens, p, ctx)

    def record_reserve(kv_cache: KVCache, T: int) -> Any:
        shapes.append((len(kv_cache.lengths), T))
        return reserve(kv_cache, T)

    monkeypatch.setattr(generation, "forward", record_forward)
    monkeypatch.setattr(KVCache, "reserve", record_reserve)
    return shapes


# ---------------------------------------------- results without a cache


@TOLERANCES
@pytest.mark.parametrize("start", [1, 7, 15, 16, 17, 30])
def test_logits_equal_those_of_the_model_without_a_cache(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike, tolerance: float, start: int
) -> None:
    """Once a text is longer than the context, the model without a cache gets the last `context_length` tokens."""
    model, rows = make_model(dtype, **form), np.stack(prompts([start, start]))
    for step in model.steps(rows, 20):
        np.testing.assert_allclose(step.logits, model.logits(rows[:, -CONTEXT:])[:, -1], rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(step.tokens, step.logits.argmax(-1))
        rows = np.concatenate([rows, step.tokens[:, None]], axis=1)
    assert rows.shape[1] == start + 20


@pytest.mark.parametrize("activation", ["gelu", "gelu_exact", "relu", "swiglu"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("changes", [{}, ROPE], ids=["", "rope"])
def test_every_kind_of_model_generates_the_same_with_and_without_a_cache(
    make_model: MakeModel, activation: str, norm: str, placement: str, changes: dict[str, Any]
) -> None:
    """Each token is drawn from the logits of the model without a cache, before and after the context is full."""
    model = make_model(activation=activation, norm=norm, norm_placement=placement, **changes)
    rows, rngs = [row.tolist() for row in prompts([10, 3])], [np.random.default_rng(b) for b in range(2)]
    found = model.generate(rows, 9, seeds=[0, 1], **SAMPLED)
    for row, rng in zip(rows, rngs, strict=True):
        for _ in range(9):
            row.append(Sampling(**SAMPLED).choose(model.logits([row[-CONTEXT:]])[0, -1], row, rng))
    assert [row.tolist() for row in found] == rows


def test_greedy_generation_takes_the_most_likely_token(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, rows = make_model(**form), np.stack(prompts([5, 5]))
    expected = rows
    for _ in range(8):
        expected = np.concatenate([expected, model.logits(expected)[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(model.generate(rows, 8), expected)


def test_after_the_prompt_each_pass_has_one_token_until_the_context_is_full(
    make_model: MakeModel, passes: list[tuple[int, int]]
) -> None:
    make_model().generate(np.ones((2, 12), int), 7)
    assert passes == [(2, 12), *[(2, 1)] * 4, *[(2, CONTEXT)] * 2]


def test_stream_computes_tokens_lazily(make_model: MakeModel, passes: list[tuple[int, int]]) -> None:
    columns = make_model().stream([[1, 2, 3]], 10)
    assert not passes
    next(columns)
    assert passes == [(1, 3)]


# ------------------------------------------------------ batches of prompts


@TOLERANCES
@SAMPLING
def test_each_row_of_a_batch_equals_the_row_alone(
    make_model: MakeModel, form: dict[str, Any], dtype: DTypeLike, tolerance: float, sampling: dict[str, Any]
) -> None:
    model, rows, seeds = make_model(dtype, **form), prompts(LENGTHS), [7, 1, 8, 2, 8, 1]
    together = list(model.steps(rows, 8, seeds=seeds, **sampling))
    for b, row in enumerate(rows):
        alone = list(model.steps([row], 8, seeds=[seeds[b]], **sampling))
        assert [step.tokens[b] for step in together] == [step.tokens[0] for step in alone]
        for step, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(step.logits[b], single.logits[0], rtol=tolerance, atol=tolerance)


@SAMPLING
def test_generate_and_stream_of_a_batch_equal_those_of_single_prompts(make_model: MakeModel, sampling: dict[str, Any]) -> None:
    model, rows, seeds = make_model(), prompts(LENGTHS), [7, 1, 8, 2, 8, 1]
    together = model.generate(rows, 8, seeds=seeds, **sampling)
    columns = np.stack(list(model.stream(rows, 8, seeds=seeds, **sampling)), axis=1)
    for b, row in enumerate(rows):
        (alone,) = model.generate([row], 8, seeds=[seeds[b]], **sampling)
        np.testing.assert_array_equal(together[b], alone)
        np.testing.assert_array_equal(alone, [*row, *columns[b]])


def test_the_order_of_rows_does_not_matter(make_model: MakeModel) -> None:
    model, rows, order = make_model(), prompts(LENGTHS), [3, 0, 5, 1, 4, 2]
    together = model.generate(rows, 8, seeds=range(6), **SAMPLED)
    shuffled = model.generate([rows[b] for b in order], 8, seeds=order, **SAMPLED)
    for b, row in zip(order, shuffled, strict=True):
        np.testing.assert_array_equal(row, together[b])


def test_one_seed_is_counted_up_for_the_other_rows(make_model: MakeModel) -> None:
    model, rows = make_model(), prompts([6, 2, 6])
    expected = model.generate(rows, 9, seeds=[7, 8, 9], **SAMPLED)
    for seed in (7, np.int64(7)):
        for row, again in zip(expected, model.generate(rows, 9, seeds=seed, **SAMPLED), strict=True):
            np.testing.assert_array_equal(row, again)


def test_sampled_tokens_depend_on_the_seed(make_model: MakeModel) -> None:
    model = make_model()
    first, again, other = (model.generate([[1, 2]], 20, temperature=1.0, seeds=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_top_k_of_one_is_greedy(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, rows = make_model(**form), np.stack(prompts([5] * 6))
    np.testing.assert_array_equal(model.generate(rows, 12, temperature=3.0, top_k=1), model.generate(rows, 12))


def test_the_repetition_penalty_applies_to_the_prompt_and_all_generated_tokens(make_model: MakeModel) -> None:
    model, text = make_model(tied=False), [3, 1, 4]
    for _ in range(20):
        z = model.logits([text[-CONTEXT:]])[0, -1]
        z[text] = np.where(z[text] > 0, z[text] / 2, z[text] * 2)
        text.append(int(z.argmax()))
    assert model.generate([[3, 1, 4]], 20, repetition_penalty=2.0)[0].tolist() == text
    assert model.generate([[3, 1, 4]], 20)[0].tolist() != text


@pytest.mark.parametrize("T, n", [(1, 0), (1, 1), (3, 4), (16, 2), (40, 3)])
def test_generate_returns_the_prompt_followed_by_the_new_tokens(make_model: MakeModel, T: int, n: int) -> None:
    rows = prompts([T, 2])
    longer = make_model().generate(rows, n)
    assert [len(row) for row in longer] == [T + n, 2 + n]
    for row, start in zip(longer, rows, strict=True):
        assert row.dtype == np.intp
        np.testing.assert_array_equal(row[: len(start)], start)


def test_prompts_may_be_lists_or_arrays_and_are_not_modified(make_model: MakeModel) -> None:
    model, rows = make_model(), [[1, 2, 3], [4]]
    expected = model.generate(rows, 5, **SAMPLED)
    assert rows == [[1, 2, 3], [4]]
    for same in ([np.array(row, np.uint8) for row in rows], ([1, 2, 3], np.array([4]))):
        for row, other in zip(model.generate(same, 5, **SAMPLED), expected, strict=True):
            np.testing.assert_array_equal(row, other)


# ---------------------------------------------------------------- stopping


def test_a_row_ends_with_its_stop_token_and_the_others_continue(make_model: MakeModel, form: dict[str, Any]) -> None:
    model, rows = make_model(**form), prompts(LENGTHS)
    unstopped = model.generate(rows, 12, **SAMPLED)
    stop = [int(unstopped[0][3]), int(unstopped[4][-2])]
    stopped = model.generate(rows, 12, stop_tokens=stop, **SAMPLED)
    columns = list(model.stream(rows, 12, stop_tokens=stop, **SAMPLED))
    counts = [count_until_stop(row[len(start) :], stop) for row, start in zip(unstopped, rows, strict=True)]
    assert len(set(counts)) > 2
    for b, (row, full, n) in enumerate(zip(stopped, unstopped, counts, strict=True)):
        start = len(rows[b])
        np.testing.assert_array_equal(row, full[: start + n])
        assert [column[b] for column in columns] == [*row[start:], *[generation.FINISHED] * (len(columns) - n)]
    assert len(columns) == max(counts)


def count_until_stop(new: Array, stop_tokens: Sequence[int]) -> int:
    """Return the number of new tokens up to and including the first stop token."""
    return next((i + 1 for i, token in enumerate(new) if token in stop_tokens), len(new))


def test_a_stop_token_in_the_prompt_does_not_stop_generation(make_model: MakeModel) -> None:
    model = make_model()
    (row,) = model.generate([[3, 1, 2]], 5)
    stop = [token for token in (3, 1, 2) if token not in row[3:]]
    assert stop
    np.testing.assert_array_equal(model.generate([[3, 1, 2]], 5, stop_tokens=stop), [row])


def stop_after(counts: dict[int, int]) -> StopCondition:
    """Return a condition that stops row b after counts[b] new tokens."""
    remaining = dict(counts)

    def stop(row: int, token: int) -> bool:
        remaining[row] -= 1
        return remaining[row] == 0

    return stop


def test_finished_rows_are_not_computed(make_model: MakeModel, passes: list[tuple[int, int]]) -> None:
    steps = list(make_model().steps([[1, 2, 3], [4], [5, 6]], 9, stop_tokens=stop_after({0: 1, 1: 4, 2: 2})))
    assert passes == [(3, 3), (2, 1), (1, 1), (1, 1)]
    assert [step.rows.tolist() for step in steps] == [[0, 1, 2], [1, 2], [1], [1]]
    assert [len(step.logits) for step in steps] == [3, 2, 1, 1]
    assert [(step.tokens != generation.FINISHED).tolist() for step in steps[:2]] == [[True] * 3, [False, True, True]]


def test_the_stop_condition_is_called_once_for_each_token(make_model: MakeModel) -> None:
    calls: list[tuple[int, int]] = []
    stop = stop_after({0: 2, 1: 3})

    def recording_stop(row: int, token: int) -> bool:
        calls.append((row, token))
        return stop(row, token)

    model = make_model()
    rows = model.generate([[1, 2], [3]], 9, stop_tokens=recording_stop)  # type: ignore[arg-type]
    assert [[token for b, token in calls if b == row] for row in (0, 1)] == [rows[0][2:].tolist(), rows[1][1:].tolist()]
    assert [len(rows[0]), len(rows[1])] == [4, 4]


def test_rows_that_slide_or_finish_do_not_change_the_others(make_model: MakeModel, form: dict[str, Any]) -> None:
    """Most prompts have about the length of the context, and each row stops after a different number of tokens."""
    model, rows = make_model(**form), prompts([14, 16, 3, 15, 40, 13])
    counts = {0: 5, 1: 2, 2: 20, 3: 9, 4: 3, 5: 7}
    found: list[list[int]] = [[] for _ in rows]
    for step in model.steps(rows, 20, stop_tokens=stop_after(counts), **SAMPLED):
        for b in step.rows:
            found[b].append(int(step.tokens[b]))
    for b, row in enumerate(rows):
        (alone,) = model.generate([row], counts[b], seeds=[b], **SAMPLED)
        assert found[b] == alone[len(row) :].tolist()


# ---------------------------------------------------------------- errors


@pytest.fixture
def no_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise an error if generation runs a forward pass."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a forward pass was run")

    monkeypatch.setattr(generation, "forward", refuse)
    monkeypatch.setattr(KVCache, "reserve", refuse)


METHODS: list[Callable[..., Any]] = [GPT.generate, GPT.stream, GPT.steps]


@pytest.mark.usefixtures("no_computation")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "tokens, n, options, message",
    [
        ([[1, 2], [1]], -1, {}, "max_new_tokens is -1, but must be 0 or more"),
        ([[1]], 1, {"overflow": "wrap"}, "overflow is 'wrap', but must be one of: slide, refuse"),
        (
            [[1], [1] * 12],
            5,
            {"overflow": "refuse"},
            "the longest prompt and 5 new tokens make 17, but the model's context_length is 16",
        ),
        ([[1] * 17], 0, {"overflow": "refuse"}, "the longest prompt and 0 new tokens make 17"),
        ([[1], [2]], 1, {"seeds": [0]}, "seeds has 1 elements, but must have one for each of the 2 prompts"),
        ([[1], [2]], 1, {"seeds": [0, 1, 2]}, "seeds has 3 elements, but must have one for each of the 2 prompts"),
        ([], 1, {}, "tokens is [], but must be a list of prompts, each a list of token ids"),
        (7, 1, {}, "tokens is 7, but must be a list of prompts"),
        (None, 1, {}, "tokens is None, but must be a list of prompts"),
        ([1, 2], 1, {}, "tokens is one prompt, [1, 2], but must be a list of prompts: [[1, 2]]"),
        (np.array([1, 2]), 1, {}, "tokens is one prompt, [1, 2], but must be a list of prompts: [[1, 2]]"),
        ([[1, 2], 3], 1, {}, "tokens[1] is 3, but must be a list of token ids"),
        ("Once", 1, {}, "tokens is text, but must be a list of prompts, each a list of token ids: [[1, 2, 3]]; "),
        (["Once", "upon"], 1, {}, "tokens is text, but must be a list of prompts"),
        ([[1], []], 1, {}, "tokens has shape (1, 0)"),
        (np.ones((1, 0), int), 1, {}, "tokens has shape (1, 0)"),
        (np.ones((1, 2, 3), int), 1, {}, "tokens has shape (1, 2, 3)"),
        ([[1, 2], [0.5]], 1, {}, "tokens has shape (1, 1) and dtype float64, but must be (B, T) integers"),
        ([[1, 2], ["a"]], 1, {}, "tokens has shape (1, 1) and dtype <U1"),
        ([[1, 2], [True]], 1, {}, "tokens has shape (1, 1) and dtype bool"),
        ([[1, 2], [3, 13]], 1, {}, "tokens holds ids 3 to 13, but must hold ids from 0 to 12"),
        ([[1, 2], [-1]], 1, {}, "tokens holds ids -1 to -1, but must hold ids from 0 to 12"),
        ([[1]], 1, {"temperature": -1}, "temperature is -1, but must be finite and 0 or more"),
        ([[1]], 1, {"temperature": 1, "top_k": 0}, "top_k is 0"),
        ([[1]], 1, {"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_invalid_arguments_raise_before_any_computation(
    make_model: MakeModel, method: Callable[..., Any], tokens: Any, n: int, options: dict[str, Any], message: str
) -> None:
    model = make_model()
    with pytest.raises(ValueError) as caught:
        method(model, tokens, n, **options)
    assert str(caught.value).startswith(message)


def test_texts_of_exactly_context_length_are_not_refused(make_model: MakeModel) -> None:
    model = make_model()
    fitting, sliding = (model.generate([[1] * 12, [2]], 4, overflow=overflow, **SAMPLED) for overflow in ("refuse", "slide"))
    assert len(fitting[0]) == CONTEXT
    for row, other in zip(fitting, sliding, strict=True):
        np.testing.assert_array_equal(row, other)


@pytest.mark.usefixtures("no_computation")
def test_zero_new_tokens_need_no_computation(make_model: MakeModel) -> None:
    model = make_model()
    assert list(model.stream([[1, 2], [3]], 0)) == []
    assert [row.tolist() for row in model.generate([[1, 2], [3]], 0)] == [[1, 2], [3]]


def test_two_generations_can_be_interleaved(make_model: MakeModel) -> None:
    model = make_model()
    expected = [model.generate([start], 6, **SAMPLED)[0][2:].tolist() for start in ([1, 2], [3, 4])]
    both: list[Iterator[GenerationStep]] = [model.steps([start], 6, **SAMPLED) for start in ([1, 2], [3, 4])]
    found = [[int(step.tokens[0]) for step in pair] for pair in zip(*both, strict=True)]
    assert [list(row) for row in zip(*found, strict=True)] == expected


def test_the_number_of_new_tokens_has_a_default(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="is one prompt"):  # and not that an argument is missing
        make_model().generate([1, 2, 3])
    assert len(make_model().generate([[1]])[0]) == 201
