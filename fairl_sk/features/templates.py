"""How a table's prompt and output become one text for the encoder: by a template, or the model's chat template."""

from functools import partial

from ..messages import as_messages, has_messages, join_prompt, read_output, to_text
from ..pairs import read_texts
from .loading import load_tokenizer
from .server import is_address


def check_template(template):
    """Refuse a prompt template that cannot be filled, or has no field ``{output}``; None is no template."""
    if template is None:
        return
    try:
        filled = template.format(prompt="\0p", output="\0o")
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Found prompt_template={template!r}, which cannot be filled ({error!r}). Expected text with the fields "
            "{prompt} and {output}; braces that are meant as such are doubled."
        ) from error
    if "\0o" not in filled:
        raise ValueError(f"Found prompt_template={template!r}. Expected the field {{output}} in it.")


def require_texts(X, join=None):
    """Texts (n_samples,) or (n_pairs, 2) as `read_texts` gives them; ValueError for features or no rows."""
    texts = read_texts(X, join=join)
    if texts is None:
        raise ValueError(
            "X holds no texts. Expected strings, an array (n_samples,) or (n_pairs, 2), or a table with columns "
            "'chosen' and 'rejected', or 'completion'. Features need no transformer of texts."
        )
    if not len(texts):
        raise ValueError(f"Found 0 rows (shape {texts.shape}) while a minimum of 1 is required.")
    return texts


def format_texts(X, template, source):
    """Texts (n_samples,) or (n_pairs, 2), and whether the chat template gave them their special tokens already.

    Messages go through the chat template of the model, a `ModelSource`, unless there is a prompt template.
    """
    join, is_chat = None, False
    if template is not None:
        join = partial(_fill_template, template)
    elif not is_address(source.path) and has_messages(X) and (tokenizer := load_tokenizer(*source[:3])).chat_template:
        join, is_chat = partial(_fill_chat_template, tokenizer), True
    return require_texts(X, join), is_chat


def _fill_template(template, prompt, output):
    return template.format(prompt=join_prompt(prompt, ""), output=to_text(read_output(output)))


def _fill_chat_template(tokenizer, prompt, output):
    messages = [*as_messages(prompt, "user"), *as_messages(read_output(output), "assistant")]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # whatever a template raises
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"The model's chat template refuses messages with the roles {roles} ({error}). Change the messages, or "
            "set prompt_template."
        ) from error
