"""Tiny random language models and encoders with a tokenizer of words, saved in a folder; for the tests."""

import tokenizers
import torch
import transformers

WORDS = "you are kind awful fool a the thank for asking go away bench green is so very not user assistant :".split()
SPECIAL = ["<unk>", "<s>", "<end>", "<pad>"]
KINDS = {
    "bert": transformers.BertConfig,
    "gpt2": transformers.GPT2Config,
    "gpt_neox": transformers.GPTNeoXConfig,
    "llama": transformers.LlamaConfig,
}
CHAT = (
    "{{ '<s> ' }}{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('No system.') }}"
    "{% endif %}{{ message.role + ' : ' + message.content + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def make_tokenizer(words=WORDS, begin=None, end=None, chat_template=None, **options):
    """A tokenizer of words, which puts `begin` before a text and `end` behind it."""
    known = {word: index for index, word in enumerate(SPECIAL + list(words))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    around = [(token, known[token]) for token in (begin, end) if token]
    if around:
        template = f"{begin or ''} $A {end or ''}".strip()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=around)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<end>", "pad_token": "<pad>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{**names, "model_max_length": 10**30, **options}
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(kind="gpt_neox", seed=0, causal=True, sizes=None, **options):
    """2 layers of 16, with weights so large that texts differ."""
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "vocab_size": len(SPECIAL + WORDS)}
    settings = {**small, **special, "max_position_embeddings": 32, "initializer_range": 0.6, **(sizes or {}), **options}
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return auto.from_config(KINDS[kind](**settings)).eval()


def save_model(folder, kind="bert", seed=0, sizes=None, causal=False, **tokenizer):
    """A folder with a model and its tokenizer, which adds the special tokens that are usual for the kind."""
    transformers.utils.logging.disable_progress_bar()
    make_model(kind, seed, causal, sizes).save_pretrained(folder)
    transformers.utils.logging.enable_progress_bar()
    usual = {"bert": {"begin": "<s>", "end": "<end>"}, "llama": {"begin": "<s>"}}.get(kind, {})
    make_tokenizer(**{**usual, **tokenizer}).save_pretrained(folder)
    return folder


def save_encoder_of(texts, folder):
    """The folder of a BERT that knows the words of these texts, for what would take MiniLM seconds."""
    words = sorted({word for text in texts for word in text.split()})
    sizes = {"vocab_size": len(SPECIAL) + len(words), "max_position_embeddings": 64}
    return str(save_model(folder, sizes=sizes, words=words, model_max_length=64))
