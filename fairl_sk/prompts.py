"""Where the prompt of a row ends and its outputs begin: the readers of files, of tables and of TRL's calls ask here."""

import re
from itertools import dropwhile, takewhile

from .messages import as_messages, is_missing, join_contents, read_messages, to_text

_SPEAKER = "\n\nAssistant:"
_SURELY = 16  # characters of a prompt with which one output begins on purpose; a greeting may begin it by chance
_TURN = re.compile(r"(?:\A|\n\n)(?:Human|Assistant):")


def split_prompt(prompt, *outputs):
    """The prompt and the outputs of a row, each a text or messages, so that the outputs do not say the prompt again.

    What two outputs begin with, as messages or turns of a transcript, belongs to the prompt; of one output without a
    prompt, all before the last answer. If the outputs begin with the prompt, it is taken off them (off a single text if
    the prompt has at least 16 characters; off a conversation, also of one side). A system message may stand in one of
    them only; it belongs to the prompt.

    Parameters
    ----------
    prompt : str, list of dict, None or NaN
    *outputs : str or list of dict
        The two outputs of a pair, or one.

    Returns
    -------
    prompt : str or list of dict
        "" if there is none.
    *outputs : str or list of dict
    """
    prompt = "" if is_missing(prompt) else prompt
    if all(isinstance(output, str) for output in outputs):
        return split_texts(to_text(prompt), *outputs)
    if any(isinstance(output, str) for output in outputs):
        return prompt, *outputs
    outputs = [read_messages(output) for output in outputs]
    before = as_messages(prompt, "user")
    if len(outputs) == 2:
        outputs = _with_equal_systems(*outputs)
        n_said = [count_shared(*map(_keys, outputs))] * 2
        if before and not any(n_said):
            n_said = [_count_said(output, before) for output in outputs]
    else:
        n_said = [_count_asked(outputs[0]) if not before else _count_said(outputs[0], before)]
    if not any(n_said):
        return prompt, *outputs
    longest = max(range(len(outputs)), key=n_said.__getitem__)
    prompt = _merge(before, outputs[longest][: n_said[longest]])
    return prompt, *(output[n:] for n, output in zip(n_said, outputs, strict=True))


def split_plain(prompt, *outputs):
    """The texts that `split_prompt` finds, in a fraction of its time; None where it takes more than a comparison.

    That is, of conversations between user and assistant: of two without a prompt, or of one message each.
    """
    if not all(map(_is_plain, outputs)):
        return None
    if not prompt:
        if len(outputs) == 1:
            return None
        n_shared = count_shared(*outputs)
        return [join_contents(side) for side in (outputs[0][:n_shared], *(side[n_shared:] for side in outputs))]
    if any(len(output) != 1 for output in outputs) or not (prompt.__class__ is str or _is_plain(prompt)):
        return None
    return [to_text(prompt), *map(join_contents, outputs)]


def _is_plain(value):
    """Whether it is a list of messages that are a user's or an assistant's text."""
    if value.__class__ is not list or not value:
        return False
    for message in value:
        if message.__class__ is not dict or len(message) != 2 or message.get("role") not in ("user", "assistant"):
            return False
        content = message.get("content")
        if content.__class__ is not str or not content:
            return False
    return True


def _with_equal_systems(chosen, rejected):
    """Two conversations that go on alike behind different system messages, each with those of both."""
    sides = (chosen, rejected)
    turns = [list(dropwhile(_is_system, side)) for side in sides]
    systems = [list(takewhile(_is_system, side)) for side in sides]
    if _keys(systems[0]) == _keys(systems[1]) or not count_shared(*map(_keys, turns)):
        return sides
    both = [*systems[0], *(message for message in systems[1] if _is_new_system(message, systems[0]))]
    return [[*both, *side] for side in turns]


def _is_system(message):
    return message["role"] == "system"


def count_shared(chosen, rejected):
    """Number of leading parts that both lists share. At least one part of each list is left over."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _keys(messages):
    """What two messages share if they are the same."""
    return [(message["role"], message["content"]) for message in messages]


def _count_asked(messages):
    """Number of messages before the last answer of a conversation that does not begin with an answer."""
    asked = [n for n, message in enumerate(messages, 1) if message["role"] in ("user", "system")]
    return asked[-1] if messages and messages[0]["role"] != "assistant" and asked[-1:] < [len(messages)] else 0


def _count_said(messages, prompt):
    """Number of leading messages that say the prompt, if any."""
    return next((n for n in range(1, len(messages)) if _says(messages[:n], prompt)), 0)


def _merge(prompt, shared):
    """Messages of a prompt and of what both outputs begin with; what one of them says of the other is said once."""
    if _says(shared, prompt):
        return [*(message for message in prompt if _is_new_system(message, shared)), *shared]
    turns = _turns(shared)
    n_said = next((n for n in range(len(turns), 0, -1) if _ends_with(prompt, turns[:n])), 0)
    if n_said:
        return [*(message for message in shared if _is_new_system(message, prompt)), *prompt, *turns[n_said:]]
    return [*prompt, *shared]


def _ends_with(prompt, turns):
    """Whether a prompt ends with turns that the user begins."""
    text = to_text(turns).strip()
    if not text or turns[0]["role"] != "user":
        return False
    before, found, after = to_text(prompt).rstrip().rpartition(text)
    return bool(found) and not after and (not before or before[-1].isspace())


def _says(messages, prompt):
    """Whether messages say a prompt, with or without system messages: some of them in a row are the same text."""
    for said, asked in ((messages, prompt), (_turns(messages), _turns(prompt))):
        text = to_text(asked).strip()
        if text and text in to_text(said):
            texts = [to_text(said[i:j]) for i in range(len(said)) for j in range(i + 1, len(said) + 1)]
            if text in map(str.strip, texts):
                return True
    return False


def _turns(messages):
    return [message for message in messages if not _is_system(message)]


def _is_new_system(message, messages):
    return _is_system(message) and message["content"] not in [other["content"] for other in messages]


def split_texts(prompt, *outputs):
    """See `split_prompt`, of texts. A transcript is one: turns that begin with "Human:" or "Assistant:"."""
    is_said = prompt and outputs[0].startswith(prompt.rstrip())
    is_said = is_said and (len(outputs) == 2 or len(prompt.strip()) >= _SURELY)
    if not is_said and _SPEAKER not in outputs[0]:
        return prompt, *outputs
    if is_said and prompt.strip():
        for text in (prompt, prompt.rstrip()):
            rests = [_cut_off(text, output) for output in outputs]
            if None not in rests:
                return text, *rests
    if all(_SPEAKER in output and output.lstrip().startswith("Human:") for output in outputs):
        cut = _shared_transcript(*outputs) if len(outputs) == 2 else _before_answer(outputs[0])
        if prompt.strip() in outputs[0][:cut]:
            return outputs[0][:cut], *(output[cut:] for output in outputs)
    return prompt, *outputs


def _cut_off(prompt, text):
    """The text behind the prompt, so that `join_prompt` gives the text again; None if it does not begin with it."""
    rest = text[len(prompt) :]
    if not text.startswith(prompt) or not rest.strip():
        return None
    if prompt.isascii() and prompt[-1].isalnum() and rest[0].isalnum():  # within a word
        return None
    joined = rest.startswith("\n\n") and not prompt[-1].isspace() and not rest[2:3].isspace()
    return rest[2:] if joined else rest


def _shared_transcript(chosen, rejected):
    """Length of the turns that both transcripts share, with the "Assistant: " behind them if both go on with it."""
    turns = [_split_turns(side) for side in (chosen, rejected)]
    cut = len("".join(turns[0][: count_shared(*turns)]))
    return _behind_speaker(cut, chosen, rejected)


def _before_answer(text):
    """Length of a transcript before its last answer."""
    return _behind_speaker(len("".join(_split_turns(text)[:-1])), text)


def _behind_speaker(cut, *texts):
    after = cut + len(_SPEAKER)
    # an answer that follows the colon at once keeps its speaker: join_prompt would set the two apart
    if all(text.startswith(_SPEAKER, cut) and not text[after : after + 1].strip() for text in texts):
        return after + all(text.startswith(" ", after) for text in texts)
    return cut


def _split_turns(transcript):
    starts = [turn.start() for turn in _TURN.finditer(transcript)][1:]
    return [transcript[i:j] for i, j in zip([0, *starts], [*starts, None], strict=True)]
