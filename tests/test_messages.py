"""Messages and prompts as texts: one conversation is one text, whatever its form, and says its prompt once."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairl_sk.datasets import load_preferences
from fairl_sk.messages import (
    as_messages,
    column_names,
    has_messages,
    join_prompt,
    join_prompts,
    read_cell,
    read_messages,
    read_output,
    skipped_parts,
    to_text,
)
from fairl_sk.pairs import read_texts, split_pairs
from fairl_sk.prompts import count_shared, split_prompt

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
    for prompts in (["p", ""], np.array(["p", ""]), pd.Series(["p", None]), pd.Series(["p", np.nan], dtype=object)):
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
        (["p"], [[{"content": "a"}]], "a message without a role at the output: {'content': 'a'}.*add the role"),
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
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (None, WHOLE),
        (np.nan, WHOLE),
        ("", WHOLE),
        (WHOLE, WHOLE),  # all shared messages together
        ("How are you?", WHOLE),  # one of them
        ("Why?", WHOLE),
        ("How are you?\n\nWell.", WHOLE),  # some of them
        (SHARED[:1], WHOLE),
        (SHARED, WHOLE),
        ([SYSTEM, *SHARED], f"Be brief.\n\n{WHOLE}"),
        ([user("Hello."), *SHARED], f"Hello.\n\n{WHOLE}"),  # the sides begin with its end
        ("are you", f"are you\n\n{WHOLE}"),  # a part of one
        ("Because.", f"Because.\n\n{WHOLE}"),  # said by one side only
    ],
)
@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_a_prompt_that_the_shared_messages_say_is_not_said_twice(before, prompt, expected):
    sides = [[*before, *SHARED, assistant("Because.")], [*before, *SHARED, assistant("No idea."), user("Oh.")]]
    found, *outputs = split_prompt(prompt, *sides)
    assert list(map(to_text, outputs)) == ["Because.", "No idea.\n\nOh."]
    assert to_text(found).replace("Be brief.\n\n", "") == expected.replace("Be brief.\n\n", "")
    assert to_text(found).count("Be brief.") == (before != [] or "Be brief." in expected)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Look out. Why?", "Look out. Why?"),
        ("Look out.\nWhy? ", "Look out.\nWhy? "),
        ("Sowhy?", "Sowhy?\n\nwhy?"),  # within a word
        ("why? Look out.", "why? Look out.\n\nwhy?"),  # not its end
    ],
)
def test_a_prompt_that_ends_with_the_shared_question_says_it(prompt, expected):
    asked = user("why?" if "why?" in prompt else "Why?")
    found, *outputs = split_prompt(prompt, [asked, assistant("So.")], [asked, assistant("No.")])
    assert to_text(found) == expected and list(map(to_text, outputs)) == ["So.", "No."]


@pytest.mark.parametrize(
    ("prompt", "n_taken"),
    [("How are you?", 1), (WHOLE, 3), ([user("How are you?")], 1), (SHARED, 3), ("How", 0), (None, 3), ("Yes.", 0)],
)
def test_a_prompt_is_taken_off_the_conversation_that_begins_with_it(prompt, n_taken):
    """Without a prompt, it is all before the last answer."""
    talk = [*SHARED, assistant("Yes.")]
    assert split_prompt(prompt, talk) == ((talk[:n_taken], talk[n_taken:]) if n_taken else (prompt, talk))
    assert split_prompt("Yes.", "Yes.") == ("Yes.", "Yes.")


@pytest.mark.parametrize(
    ("prompt", "sides", "expected"),
    [
        ("The sky", ("The sky is blue.", "The sky is green."), ("The sky", " is blue.", " is green.")),
        ("Why?", ("Why?\n\nSo.", "Why?\n\nNo."), ("Why?", "So.", "No.")),
        ("Why? ", ("Why?\nSo.", "Why?\nNo."), ("Why?", "\nSo.", "\nNo.")),
        ("Who", ("Whoever.", "Whole."), ("Who", "Whoever.", "Whole.")),  # within a word
        ("Why?", ("Why?", "Why? No."), ("Why?", "Why?", "Why? No.")),  # nothing would be left
        ("Why?", ("Why? So.", "No."), ("Why?", "Why? So.", "No.")),  # one side only
        ("你好吗", ("你好吗我好", "你好吗不好"), ("你好吗", "我好", "不好")),
        (
            "Why?",
            ("\n\nHuman: Why?\n\nAssistant: So.", "\n\nHuman: Why?\n\nAssistant: No."),
            ("\n\nHuman: Why?\n\nAssistant: ", "So.", "No."),
        ),
        (
            "Who?",  # said by neither
            ("\n\nHuman: Why?\n\nAssistant: So.", "\n\nHuman: Why?\n\nAssistant: No."),
            ("Who?", "\n\nHuman: Why?\n\nAssistant: So.", "\n\nHuman: Why?\n\nAssistant: No."),
        ),
    ],
)
def test_a_prompt_that_both_texts_begin_with_is_said_once(prompt, sides, expected):
    assert split_prompt(prompt, *sides) == expected
    table = pd.DataFrame({"prompt": [prompt], "chosen": [sides[0]], "rejected": [sides[1]]})
    assert read_texts(table).tolist() == [[join_prompt(expected[0], side) for side in expected[1:]]]


@pytest.mark.parametrize(
    ("prompt", "output", "rest"),
    [
        ("Who built the old bridge?", "Who built the old bridge?\n\nA mason.", "A mason."),
        ("The old bridge over", "The old bridge over the river.", " the river."),
        ("The old bridge over ", "The old bridge over the river.", "the river."),
        ("The old bridge over", "The old bridge overlooks it.", None),  # within a word
        ("Who built the old bridge?", "Who built the old bridge?", None),  # nothing would be left
        ("Good morning", "Good morning to you.", None),  # too short to be sure
    ],
)
def test_a_long_prompt_that_a_single_text_begins_with_is_said_once(prompt, output, rest):
    expected = join_prompt(prompt, output if rest is None else rest)
    assert split_prompt(prompt, output) == (prompt, output if rest is None else rest)
    assert rest is None or expected.strip() == output
    records = [{"prompt": prompt, "completion": output, "label": True}, {"completion": "No.", "label": False}]
    bunch = load_preferences(records)
    assert join_prompts(bunch.prompt, bunch.data).tolist() == [expected, "No."]
    assert read_texts(pd.DataFrame(records)).tolist() == [expected, "No."]


@pytest.mark.parametrize("prompt", ["Why?", [user("Why?")], [SYSTEM, user("Why?")]])
@pytest.mark.parametrize("before", [[user("Why?")], [SYSTEM, user("Why?")]])
@pytest.mark.parametrize("turned", [False, True])
def test_a_prompt_that_one_conversation_of_two_begins_with_is_said_once(prompt, before, turned):
    sides = [*before, assistant("So.")], [assistant("No.")]
    found, *outputs = split_prompt(prompt, *sides[:: -1 if turned else 1])
    assert to_text(found).count("Why?") == 1 and to_text(found).count(SYSTEM["content"]) <= 1
    assert list(map(to_text, outputs)) == (["No.", "So."] if turned else ["So.", "No."])


def test_the_outputs_of_a_pair_are_those_of_the_pair():
    """An answer that alone begins with its prompt stays as it is, also where outputs are scored one by one."""
    table = pd.DataFrame({"prompt": ["Who built the bridge?"], "chosen": ["A mason."]})
    table["rejected"] = "Who built the bridge? No idea."
    assert read_texts(split_pairs(table)).tolist() == read_texts(table)[0].tolist()


@settings(deadline=None)
@given(MESSAGES, MESSAGES.filter(bool), MESSAGES.filter(bool), st.booleans(), st.booleans())
def test_no_form_of_the_prompt_is_doubled(talk, chosen, rejected, in_prompt, in_sides):
    """Whichever of prompt and sides have the shared turns, and a system turn."""
    talk = [user("asked once"), *talk]
    prompt, before = [[SYSTEM] * is_there + talk for is_there in (in_prompt, in_sides)]
    sides = [[*before, *side] for side in (chosen, rejected)]
    for form in (prompt, to_text(prompt)):
        found, *outputs = split_prompt(form, *sides)
        for output in outputs:
            assert join_prompt(found, output).count("asked once") == 1


@pytest.mark.parametrize("systems", [("chosen",), ("rejected",), ("chosen", "rejected")])
@pytest.mark.parametrize("prompt", [None, "Why?", [user("Why?")]])
def test_a_system_message_of_one_side_does_not_double_the_prompt(systems, prompt):
    sides = {"chosen": [user("Why?"), assistant("So.")], "rejected": [user("Why?"), assistant("No.")]}
    for name in systems:
        sides[name] = [{"role": "system", "content": f"As {name}."}, *sides[name]]
    found, *outputs = split_prompt(prompt, *sides.values())
    assert to_text(found) == "\n\n".join([*(f"As {name}." for name in systems), "Why?"])
    assert list(map(to_text, outputs)) == ["So.", "No."]


@pytest.mark.parametrize("roles", [("user", "assistant"), ("User", "ASSISTANT"), ("human", "gpt"), ("Human", "GPT")])
def test_names_of_roles_are_one_in_any_case(roles):
    talk = [{"role": role, "content": text} for role, text in zip(roles, ("Why?", "So."), strict=True)]
    assert [message["role"] for message in read_messages(talk)] == ["user", "assistant"]
    prompt, *outputs = split_prompt(None, talk, [user("Why?"), assistant("No.")])
    assert to_text(prompt) == "Why?" and list(map(to_text, outputs)) == ["So.", "No."]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "clock"}}]}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": None}, ""),
        ({"role": "user"}, ""),
        ({"role": "user", "content": float("nan")}, ""),
        (CALL, ""),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, "a"),
        ({"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "a"}, "b"]}, "a\n\nb"),
        ({"role": "user", "content": np.array([{"type": "text", "text": "a"}], dtype=object)}, "a"),
        (
            {"role": "user", "content": [{"type": "output_text", "text": "a"}, {"type": "thinking", "thinking": "b"}]},
            "a",
        ),
        ({"role": "user", "content": []}, ""),
        ({"from": "human", "value": "a"}, "a"),
        ({"role": None, "content": None, "from": "gpt", "value": "a"}, "a"),  # nulls that Arrow adds
    ],
)
def test_a_message_is_read_in_any_form(message, text):
    for value in ([message], (message,), message, np.array([message], dtype=object), pd.Series([message])):
        assert to_text(value) == text
    read = read_messages([message])[0]
    assert read["role"] in ("user", "assistant") and read["content"] == text and None not in read.values()


def test_parts_that_are_no_text_are_skipped_and_counted():
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "audio"}]},
        user("b"),
    ]
    assert skipped_parts(talk) == 2 and skipped_parts("text") == skipped_parts(None) == 0
    with pytest.warns(UserWarning, match="Skipped 2 parts of messages in column 'completion'"):
        assert read_texts(pd.DataFrame({"completion": [talk, [user("c")]]})).tolist() == ["a\n\nb", "c"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"content": "a"}], "without a role at the output"),
        ([{"role": "user", "content": 3}], "whose content is int 3"),
        ([{"role": "user", "content": {"text": "a"}}], "whose content is dict"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part without text"),
        ([user("a"), "b"], "Expected text at the output, but found list"),
    ],
)
def test_what_is_no_message_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        to_text(value)


@settings(deadline=None)
@given(MESSAGES.filter(bool))
def test_keys_beside_role_and_content_do_not_part_what_two_sides_share(talk):
    other = [{**message, "id": n, "name": None, "tool_calls": []} for n, message in enumerate(talk)]
    prompt, *outputs = split_prompt(None, [*talk, assistant("yes")], [*other, assistant("no")])
    assert to_text(prompt) == to_text(talk) and list(map(to_text, outputs)) == ["yes", "no"]


@settings(deadline=None)
@given(MESSAGES.filter(bool))
@example([{"role": "user", "content": "it's }{"}, {"role": "user", "content": '"} {'}])
def test_messages_written_as_text_are_messages(talk):
    numpy_style = "[" + "\n ".join(map(repr, talk)) + "]"
    for text in (json.dumps(talk), repr(talk), f"  {talk!r}", numpy_style):
        assert read_cell(text) == talk
    cells = pd.DataFrame({"completion": [json.dumps(talk), repr(talk)]})
    assert read_texts(cells).tolist() == [to_text(talk)] * 2


@pytest.mark.parametrize(
    "text", ["", "[1]", "[see below]", '[{"a": 1}]', "{'role': 'user'", "{'content': 'a'}", "role: user"]
)
def test_a_text_that_is_no_list_of_messages_stays_a_text(text):
    assert read_cell(text) == text


def test_a_text_that_breaks_off_in_its_messages_is_refused():
    with pytest.raises(ValueError, match="begins like a list of messages and cannot be read"):
        read_cell('[{"role": "user", "content": "a"')


def test_what_a_tool_said_is_part_of_a_prompt_and_not_of_an_output():
    tool = {"role": "tool", "content": "12:00"}
    asked, answer = [user("Time?"), CALL, tool], assistant("Noon.")
    assert join_prompt(asked, [answer]) == "Time?\n\n12:00\n\nNoon."
    assert join_prompt([user("Time?")], [CALL, tool, answer]) == "Time?\n\nNoon."
    assert to_text(read_output([CALL, tool, answer], tool_turns=True)) == "12:00\n\nNoon."
    sides = {"chosen": [user("Time?"), CALL, tool, answer], "rejected": [user("Time?"), assistant("No idea.")]}
    assert read_texts(pd.DataFrame([sides])).tolist() == [["Time?\n\nNoon.", "Time?\n\nNo idea."]]
    for role in ("observation", "function"):  # other names of it
        assert to_text(read_output([{"from": role, "value": "12:00"}, answer])) == "Noon."


def test_messages_of_a_text_and_tables_of_messages():
    assert as_messages("hi", "user") == as_messages((user("hi"),), "assistant") == [user("hi")]
    assert as_messages("", "user") == as_messages(None, "user") == []
    columns = {"completion": [[user("hi")], [assistant("a")]], "score": [1, 2]}
    for table in (pd.DataFrame(columns), datasets.Dataset.from_dict(columns)):
        assert column_names(table) == ["completion", "score"] and has_messages(table)
    assert (
        not has_messages(pd.DataFrame({"completion": ["a"], "prompt": [None], "score": [1]}))
        and column_names(np.zeros(3)) is None
    )
