"""Messages and prompts as texts: one conversation is one text, whatever its form, and says its prompt once."""

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairl_sk.messages import (
    as_messages,
    column_names,
    count_shared,
    has_messages,
    join_prompt,
    join_prompts,
    separate_prompt,
    split_messages,
    to_text,
)

MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()}))


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@given(MESSAGES, MESSAGES)
def test_a_conversation_is_one_text_wherever_the_prompt_ends(prompt, output):
    whole = to_text([*prompt, *output])
    forms = [(form(prompt), other(output)) for form in (list, to_text) for other in (tuple, to_text)]
    assert {join_prompt(*form) for form in forms} == {whole}
    assert join_prompts([prompt], [output]).tolist() == [whole]
    assert join_prompts([prompt, to_text(prompt)], [[output, to_text(output)]] * 2).tolist() == [[whole, whole]] * 2
    assert all(message["content"] in whole for message in [*prompt, *output])


def test_white_space_between_two_texts_replaces_the_empty_line():
    assert join_prompt("a", "b") == "a\n\nb"
    assert join_prompt("a ", "b") == "a b"
    assert join_prompt("a", "\nb") == "a\nb"
    assert join_prompt(None, "b") == join_prompt([], "b") == join_prompt("b", "") == "b"


def test_join_prompts_takes_every_container():
    pairs = pd.DataFrame({"chosen": ["a", "b"], "rejected": ["c", "d"]})
    expected = [["p\n\na", "p\n\nc"], ["b", "d"]]
    for prompts in (["p", ""], np.array(["p", ""]), pd.Series(["p", None], dtype=object)):
        assert join_prompts(prompts, pairs).tolist() == expected
        assert join_prompts(prompts, pairs.to_numpy()).tolist() == expected
        assert join_prompts(prompts, pairs["chosen"]).tolist() == ["p\n\na", "b"]
    assert join_prompts(None, pairs).tolist() == pairs.to_numpy().tolist()


@pytest.mark.parametrize(
    ("prompts", "outputs", "message"),
    [
        (["p"], ["a", "b"], "1 prompts for 2 rows"),
        ([3], ["a"], "Expected text at the prompt, but found int 3"),
        (["p"], [None], "Expected text at the output, but found None"),
        (["p"], [["a", 1.5]], "Expected text at the output, but found float 1.5"),
        (["p"], [["a", "b", "c"]], r"texts of shape \(1, 3\)"),
        (["p", "p"], ["a", ["b", "c"]], "Expected text at row 1, but found list"),
        (["p"], [[{"role": "user"}]], "Expected text at the output, but found dict"),
    ],
)
def test_join_prompts_refuses(prompts, outputs, message):
    with pytest.raises(ValueError, match=message):
        join_prompts(prompts, outputs)


@given(*[st.lists(st.sampled_from("ab"), min_size=1, max_size=5)] * 2)
def test_count_shared_is_the_longest_common_beginning_that_leaves_a_part_of_both(chosen, rejected):
    common = [n for n in range(min(len(chosen), len(rejected))) if chosen[:n] == rejected[:n]]
    assert count_shared(chosen, rejected) == max(common)


SHARED = [user("How are you?"), assistant("Well."), user("Why?")]
WHOLE = "How are you?\n\nWell.\n\nWhy?"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (None, WHOLE),
        ("", WHOLE),
        (WHOLE, WHOLE),  # all shared messages together
        ("How are you?", WHOLE),  # one of them
        ("Why?", WHOLE),
        ("are you", f"are you\n\n{WHOLE}"),  # a part of one
        ("How are you?\n\nWell.", f"How are you?\n\nWell.\n\n{WHOLE}"),  # some of them
        ("Because.", f"Because.\n\n{WHOLE}"),  # said by one side only
    ],
)
def test_a_prompt_that_the_shared_messages_say_is_not_said_twice(prompt, expected):
    sides = [[*SHARED, assistant("Because.")], [*SHARED, assistant("No idea."), user("Oh.")]]
    assert split_messages(prompt, *sides) == (expected, "Because.", "No idea.\n\nOh.")


@pytest.mark.parametrize(
    ("prompt", "n_taken"),
    [("How are you?", 1), (WHOLE, 3), ([user("How are you?")], 1), (SHARED, 3), ("How", 0), (None, 0), ("Yes.", 0)],
)
def test_a_prompt_is_taken_off_the_conversation_that_begins_with_it(prompt, n_taken):
    talk = [*SHARED, assistant("Yes.")]
    expected = (talk[:n_taken], talk[n_taken:]) if n_taken else (prompt, talk)
    assert separate_prompt(prompt, talk) == expected
    assert separate_prompt("Yes.", "Yes.") == ("Yes.", "Yes.")


def test_messages_of_a_text_and_tables_of_messages():
    assert as_messages("hi", "user") == as_messages((user("hi"),), "assistant") == [user("hi")]
    assert as_messages("", "user") == as_messages(None, "user") == []
    columns = {"completion": [[user("hi")], [assistant("a")]], "score": [1, 2]}
    for table in (pd.DataFrame(columns), datasets.Dataset.from_dict(columns)):
        assert column_names(table) == ["completion", "score"] and has_messages(table)
    assert not has_messages(pd.DataFrame({"completion": ["a"], "score": [1]})) and column_names(np.zeros(3)) is None
