"""The world with a latent expert: right answers, and no domain task in the form in which tasks are asked."""

from __future__ import annotations

import itertools

from coalign.checks.papers.selfalign.self_specialization import SEEN, is_right, items_of, seeds_of
from coalign.checks.worlds.words.latent import DOMAIN, GENERAL, LatentWorld


def test_tasks_have_the_answers_that_their_operations_say() -> None:
    world = LatentWorld(3)
    a, b, c = (world.first_letter + place for place in (4, 0, 9))
    assert world.solve(("reverse", (a, b, c))) == (c, b, a)
    assert world.solve(("rotate", (a, b, c))) == (b, c, a)
    signs = tuple(world.first_sign + place for place in (9, 0, 4))
    assert world.solve(("next", signs)) == tuple(world.first_sign + place for place in (0, 1, 5))
    assert world.solve(("opposite", signs)) == tuple(world.first_sign + place for place in (4, 5, 9))
    assert (
        len({world.solve(("tag", (one, one, one))) for one in range(world.first_sign, world.first_sign + 10)})
        == 10
    )
    assert world.solve(("next", (a, b, c))) is None
    assert not is_right(world, ("next", (a, b, c)), [world.end])


def test_the_domain_is_never_asked_for_in_what_the_generalist_reads() -> None:
    world = LatentWorld(3)
    codes = {world.code(one) for one in DOMAIN}
    in_lines = 0
    for number in range(300):
        (record,) = world.document(number).contexts
        ids = [*record.prompt_ids, *record.response_ids[0]]
        asked = {code for mark, code in itertools.pairwise(ids) if mark == world.task}
        assert not asked & codes
        in_lines += bool(codes & set(ids))
    assert in_lines > 60


def test_what_is_written_is_read_back_and_nothing_else() -> None:
    world = LatentWorld(3)
    task = ("tag", tuple(world.first_sign + one for one in (1, 2, 3)))
    tokens = world.listed(task)[1:]
    assert world.read(tokens) == task
    for wrong in (
        tokens[:-1],
        [*tokens, world.end],
        [tokens[0], world.end, *tokens[2:]],
        [world.end, *tokens[1:]],
    ):
        assert world.read(wrong) is None


def test_seeds_are_of_each_kind_and_no_test_item_is_one() -> None:
    world = LatentWorld(3)
    seeds = seeds_of(world, SEEN)
    assert {one[0] for one in seeds} == set(SEEN)
    assert not set(items_of(world, SEEN, seeds, 500, "x")) & set(seeds)
    assert {one[0] for one in seeds_of(world, GENERAL)} == set(GENERAL)
