"""Blocks: who has them, what they hold, and in what order they are given again."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.inference.blocks import BLOCK, BlockPool, Table


def filled(pool, ids, root=None, room=0):
    """A table whose blocks are noted to hold `ids`, as far as they fill them."""
    table = Table(pool, root)
    table.find(ids, len(ids))
    assert table.grow(len(ids), room)
    table.record(ids, len(ids))
    return table


def text(number, length=3 * BLOCK):
    return [number * 1000 + i for i in range(length)]


def test_the_same_beginning_is_found_and_shared():
    pool = BlockPool(10)
    first = filled(pool, text(1))
    second = Table(pool)
    assert second.find(text(1)[: 2 * BLOCK] + text(2), 5 * BLOCK) == 2 * BLOCK
    assert second.blocks == first.blocks[:2]
    assert pool.free == 7
    first.release()
    assert pool.free == 8
    second.release()
    assert pool.free == 10
    assert not pool.references
    third = Table(pool)
    assert third.find(text(1), 3 * BLOCK - 1) == 2 * BLOCK, "the last token is left to be run"


def test_nothing_is_found_of_what_was_cleared():
    pool = BlockPool(6)
    kept, used = filled(pool, text(1)), filled(pool, text(2))
    kept.release()
    pool.clear()
    assert not Table(pool).find(text(1), 3 * BLOCK)
    assert not Table(pool).find(text(2), 3 * BLOCK)
    again = filled(pool, text(1))
    assert not {*again.blocks} & {*used.blocks}
    again.release()
    used.release()
    assert pool.free == 6
    assert Table(pool).find(text(1), 3 * BLOCK) == 3 * BLOCK


def test_the_same_tokens_after_others_are_not_the_same():
    pool = BlockPool(10)
    filled(pool, text(1) + text(2), room=0)
    assert Table(pool).find(text(2), 3 * BLOCK) == 0
    assert Table(pool, "another root").find(text(1), 3 * BLOCK) == 0


def test_texts_whose_hashes_collide_stay_two():
    """Python's hash of -1 is that of -2."""
    pool, one, two = BlockPool(10), [-1] * BLOCK, [-2] * BLOCK
    assert hash(tuple(one)) == hash(tuple(two))
    filled(pool, one)
    assert Table(pool).find(two, BLOCK) == 0
    other = filled(pool, two)
    again = Table(pool)
    assert again.find(two, BLOCK) == BLOCK
    assert again.blocks == other.blocks


def test_the_least_recently_used_goes_first_and_the_end_before_the_beginning():
    pool = BlockPool(9)
    for number in (1, 2, 3):
        filled(pool, text(number)).release()
    used = Table(pool)
    used.find(text(1), 3 * BLOCK)
    used.release()
    taken = Table(pool)
    assert taken.grow(2 * BLOCK)
    taken.release()
    assert [Table(pool).find(text(n), 3 * BLOCK) for n in (3, 2, 1)] == [3 * BLOCK, BLOCK, 3 * BLOCK]


def test_what_was_not_written_is_not_found():
    pool = BlockPool(9)
    filled(pool, text(1)).release(written=BLOCK + 3)
    assert Table(pool).find(text(1), 3 * BLOCK) == BLOCK


def test_a_fork_shares_full_blocks_and_copies_the_last():
    pool = BlockPool(4)
    table = filled(pool, text(1, 2 * BLOCK + 5))
    fork, copies, computed = table.fork(2 * BLOCK + 5)
    assert fork.blocks[:2] == table.blocks[:2]
    assert copies == [(table.blocks[2], fork.blocks[2])]
    assert computed == 2 * BLOCK + 5
    assert pool.free == 0
    poor, copies, computed = table.fork(2 * BLOCK + 5)
    assert (copies, computed) == ([], 2 * BLOCK), "without a block, what was in it is computed again"
    for one in (table, fork, poor):
        one.release()
    assert pool.free == 4


def test_what_an_encoder_read_is_found_as_a_whole_or_not_at_all():
    pool, ids = BlockPool(8), text(1, BLOCK + 3)
    table = Table(pool, "read")
    table.grow(len(ids))
    table.record_whole(ids)
    table.release()
    assert Table(pool, "read").find_whole(ids)
    pool.release(list(pool.references))
    assert not Table(pool, "read").find_whole([*ids, 7])


def test_growing_tables_stay_in_one_piece():
    """Two that grow in turn are each one run of blocks, where room was left for what was to come."""
    pool = BlockPool(20)
    tables = [Table(pool), Table(pool)]
    for tokens in range(1, 8 * BLOCK + 1):
        for table in tables:
            assert table.grow(tokens, 8 * BLOCK - tokens)
    for table in tables:
        assert table.blocks == list(range(table.blocks[0], table.blocks[0] + 8))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 70)), max_size=40), st.integers(1, 12))
def test_any_history_counts_right(history, total):
    pool, tables, held = BlockPool(total), [], {}
    for action, number, length in history:
        ids = text(number % 2, 40) + text(number, 60)
        if action == 0 and tables:
            tables.pop(number % len(tables)).release()
        elif action == 1 and tables:
            table = tables[number % len(tables)]
            tables.append(table.fork(min(length, len(table.blocks) * BLOCK))[0])
        else:
            table = Table(pool)
            found = table.find(ids, length)
            assert [held[block] for block in table.blocks] == [
                tuple(ids[: end + BLOCK]) for end in range(0, found, BLOCK)
            ], "what is found holds these tokens after those"
            if table.grow(length):
                table.record(ids, length)
                held |= {table.blocks[i]: tuple(ids[: (i + 1) * BLOCK]) for i in range(found // BLOCK, length // BLOCK)}
            tables.append(table)
        assert pool.references == Counter(block for table in tables for block in table.blocks)
        assert pool.free == total - len(pool.references)
    for table in tables:
        table.release()
    assert pool.free == total
    assert len(pool.take(total)) == total
